# SPDX-License-Identifier: Apache-2.0

"""`Progress`: counts of a running job, and a bar on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .line import Answer

REFRESH_S = 0.5
"""Time between two looks at the engine's slots."""


class Progress:
    """Counts what ends, and shows it.

    Args:
        total: Lines of the input.
        resumed: Lines that earlier calls have finished.
        show: Whether a bar is shown.
        stats: Returns ``slots`` and ``running`` of the engine.
    """

    def __init__(
        self,
        *,
        total: int,
        resumed: int,
        show: bool,
        stats: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.num_prompt_tokens = 0
        self.num_new_tokens = 0
        self.num_failed = 0
        """Lines that failed in this call."""
        self._stats = stats
        self._begun = self._looked = time.monotonic()
        self._bar: Any = None
        if show:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=resumed, unit=" lines", dynamic_ncols=True
            )

    @property
    def seconds(self) -> float:
        """Time since `begin`."""
        return time.monotonic() - self._begun

    def begin(self) -> None:
        """Count seconds from now: the model is loaded."""
        self._begun = time.monotonic()

    def add(self, answer: Answer) -> None:
        """Count a line that has ended."""
        self.num_prompt_tokens += answer.num_prompt_tokens
        self.num_new_tokens += answer.num_new_tokens
        self.add_lines(1, failed=answer.status != 200)

    def add_lines(self, count: int, *, failed: bool = False) -> None:
        """Count lines that no worker has seen."""
        if failed:
            self.num_failed += count
        if self._bar is None:
            return
        self._bar.update(count)
        now = time.monotonic()
        if now - self._looked >= REFRESH_S:
            self._looked = now
            stats = self._stats()
            shown = [f"{self.num_new_tokens / self.seconds:.0f} tokens/s"]
            if "slots" in stats:
                shown.append(f"{stats['running']}/{stats['slots']} slots")
            if self.num_failed:
                shown.append(f"{self.num_failed} failed")
            self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
