# SPDX-License-Identifier: Apache-2.0

"""`Totals`: counts of the results that a command has written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .requests import Result


@attrs.define(eq=False)
class Totals:
    """Counts results as they pass."""

    num_prompts: int = 0
    num_failed: int = 0
    num_cut: int = 0
    """Prompts with an answer that ended by length."""
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    _begun: float = attrs.field(factory=time.monotonic)

    def counted(self, results: Iterable[Result]) -> Iterator[Result]:
        """Yield results, each after it is counted."""
        for result in results:
            self.num_prompts += 1
            if result.output is None:
                self.num_failed += 1
            else:
                ends = [each.finish_reason for each in result.output.outputs]
                self.num_cut += "length" in ends
                self.num_prompt_tokens += len(result.output.prompt_token_ids)
                self.num_new_tokens += sum(
                    len(each.token_ids) for each in result.output.outputs
                )
            yield result

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._begun, 1e-9)

    @property
    def rate(self) -> str:
        """New tokens a second, as text."""
        return f"{self.num_new_tokens / self._seconds:.0f} tokens/s"

    def __str__(self) -> str:
        failed = f", {self.num_failed} of them failed" if self.num_failed else ""
        cut = f", {self.num_cut} cut by their length" if self.num_cut else ""
        return (
            f"{self.num_prompts} prompts{failed}{cut}; {self.num_prompt_tokens} prompt "
            f"tokens and {self.num_new_tokens} new ones in {self._seconds:.1f} s, "
            f"{self.rate}."
        )
