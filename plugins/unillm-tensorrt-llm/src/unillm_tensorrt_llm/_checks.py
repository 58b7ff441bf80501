# SPDX-License-Identifier: Apache-2.0

"""Checks of assumptions about TensorRT-LLM, for ``unillm doctor --contract``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from unillm.backend import Finding

T = TypeVar("T")

Seen = tuple["bool | None", str]
"""Whether an assumption held (`None` where none is made), and the observation."""


def findings(
    asker: T, checks: Iterable[tuple[Callable[[T], Seen], str]]
) -> Iterator[Finding]:
    """Yield a finding for each check, with its docstring as the assumption.

    Args:
        asker: Passed to each check.
        checks: Each with the source of its assumption.
    """
    for check, source in checks:
        try:
            held, detail = check(asker)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
            held, detail = False, f"{type(error).__name__}: {error}"
        yield Finding(
            assumption=(check.__doc__ or "").rstrip("."),
            source=source,
            held=held,
            detail=detail,
        )
