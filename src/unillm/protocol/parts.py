# SPDX-License-Identifier: Apache-2.0

"""Parts of a chat's answer, and `PartReader`, which finds them in the new text.

The whole answer is read by the same readers as a stream: `push` of all text and then
`finish`. A chat without tools and without reasoning has a `PlainReader`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import attrs
from msgspec import UNSET, Struct, UnsetType
from typing_extensions import override


class FunctionCallPart(Struct, kw_only=True):
    """A called function, or a new part of its arguments, which are JSON text."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallPart(Struct, kw_only=True):
    """A call of a tool, or a new part of it.

    The first part of a call has its id, type and name; later ones add to the arguments.
    """

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionCallPart


@attrs.frozen
class Parts:
    """New parts of one answer, in their order: reasoning, content, calls."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()


class PartReader(Protocol):
    """**Protocol:** finds the parts of one answer in its text."""

    def push(self, text: str) -> Parts:
        """Take new text; return what is certain to be a part."""

    def finish(self) -> Parts:
        """Return what was held back; the answer has ended."""


class PlainReader(PartReader):
    """Takes all text as content."""

    @override
    def push(self, text: str) -> Parts:
        return Parts(text)

    @override
    def finish(self) -> Parts:
        return Parts()


class ReasoningThenCalls(PartReader):
    """Splits off the reasoning first, and reads calls in what is left.

    Args:
        reasoning: Separates reasoning from content.
        calls: Separates calls from content.
    """

    def __init__(self, reasoning: PartReader, calls: PartReader) -> None:
        self._reasoning = reasoning
        self._calls = calls

    @override
    def push(self, text: str) -> Parts:
        first = self._reasoning.push(text)
        if not first.content:
            return first
        return attrs.evolve(self._calls.push(first.content), reasoning=first.reasoning)

    @override
    def finish(self) -> Parts:
        first = self._reasoning.finish()
        then = self._calls.push(first.content)
        last = self._calls.finish()
        return Parts(
            content=then.content + last.content,
            reasoning=first.reasoning,
            tool_calls=then.tool_calls + last.tool_calls,
        )


def overlap(text: str, marker: str) -> int:
    """Return how many last characters of *text* may begin *marker*."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
