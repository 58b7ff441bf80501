# SPDX-License-Identifier: Apache-2.0

"""Readers of tool calls, one for each form in which models write them.

Text that turns out to be no call is content. Content before the first call stays as it
is; white space between calls and after them is left out.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Container

import attrs
from typing_extensions import override

from .bodies import ChatBody
from .call_object import CallObject, JsonScanner
from .parts import FunctionCallPart, PartReader, Parts, ToolCallPart, overlap

_SPACE = " \t\r\n"


class CallReader(PartReader):
    """Base of the readers: takes content and calls from the text so far.

    Args:
        body: The request. Without ``parallel_tool_calls`` only the first call counts.
    """

    _marker: str | None = None
    """Text that begins calls; `None` if only the first text may be one."""

    def __init__(self, body: ChatBody) -> None:
        self._only_first = body.parallel_tool_calls is False
        self._functions = frozenset(tool.function.name for tool in body.tools or ())
        self._rest = ""
        self._ended = False
        self._content: list[str] = []
        self._space = ""
        self._parts: list[ToolCallPart] = []
        self._num_calls = 0
        self._object: CallObject | None = None
        self._read: Callable[[], bool] = self._read_content

    @override
    def push(self, text: str) -> Parts:
        self._rest += text
        while self._read():
            pass
        parts = Parts("".join(self._content), tool_calls=tuple(self._parts))
        self._content, self._parts = [], []
        return parts

    @override
    def finish(self) -> Parts:
        self._ended = True
        parts = self.push("")
        if self._object is not None and not self._object.started:
            self._say(self._opening + self._object.text)
        self._say(self._rest)
        self._rest = ""
        last = "".join(self._content)
        return attrs.evolve(parts, content=parts.content + last)

    # ------------------------------------------------------------------------- content

    def _say(self, text: str) -> None:
        """Add content; after a call, white space waits for text behind it."""
        if self._num_calls:
            text = self._space + text
            shown = text.rstrip(_SPACE)
            self._space = text[len(shown) :]
            text = shown
        if text:
            self._content.append(text)

    def _read_content(self) -> bool:
        marker = self._marker
        if marker is not None and marker in self._rest:
            before, _, self._rest = self._rest.partition(marker)
            self._say(before)
            self._read = self._read_opening
            return True
        held = 0 if marker is None or self._ended else overlap(self._rest, marker)
        self._say(self._rest[: len(self._rest) - held])
        self._rest = self._rest[len(self._rest) - held :]
        return False

    # --------------------------------------------------------------------------- calls

    _opening = ""
    """Text that is content too if no call follows."""

    def _read_opening(self) -> bool:
        """Read what stands between the marker and a call."""
        raise NotImplementedError

    def _read_between(self) -> bool:
        """Read what stands behind a call."""
        raise NotImplementedError

    def _begin_object(self, opening: str, known: Container[str] | None = None) -> None:
        self._opening = opening
        self._object = CallObject(self._new_call(), known=known)
        self._read = self._read_object

    def _read_object(self) -> bool:
        current = self._object
        assert current is not None
        text, self._rest = self._rest, ""
        following = current.push(text)
        if not (current.ended or current.broken):
            return False
        self._object = None
        self._rest = following
        self._read = self._read_between
        if not current.started:
            self._say(self._opening)
            self._rest = current.text
            self._read = self._read_no_call
        return True

    def _read_no_call(self) -> bool:
        """Go back to content; calls may follow."""
        self._read = self._read_content
        return True

    def _new_call(self) -> Callable[[FunctionCallPart], None]:
        """Return a function that takes the parts of one call."""
        index = -1

        def emit(function: FunctionCallPart) -> None:
            nonlocal index
            if index < 0:
                index = self._num_calls
                self._num_calls += 1
                self._space = ""
                part = ToolCallPart(
                    index=index, id=self._new_id(), type="function", function=function
                )
            else:
                part = ToolCallPart(index=index, function=function)
            if index == 0 or not self._only_first:
                self._parts.append(part)

        return emit

    def _new_id(self) -> str:
        return f"call_{uuid.uuid4().hex[:24]}"

    def _skip(self, skipped: str) -> str:
        """Drop characters; return the next one, or "" if it is yet to come."""
        self._rest = self._rest.lstrip(skipped)
        return self._rest[:1]


class HermesReader(CallReader):
    """Reads ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen."""

    _marker = "<tool_call>"
    _closing = "</tool_call>"

    @override
    def _read_opening(self) -> bool:
        self._begin_object(self._marker)
        return True

    @override
    def _read_between(self) -> bool:
        self._skip(_SPACE)
        if self._rest.startswith(self._closing):
            self._rest = self._rest[len(self._closing) :]
        elif self._closing.startswith(self._rest) and not self._ended:
            return False
        self._read = self._read_content
        return True


class LlamaReader(CallReader):
    """Reads ``{"name": …, "parameters": {…}}`` at the start: Llama 3.

    ``<|python_tag|>`` may stand before it, and a semicolon between two. The form has no
    other mark, so only an object that names a function of the request is a call.
    """

    _marker = "<|python_tag|>"

    def __init__(self, body: ChatBody) -> None:
        super().__init__(body)
        self._read = self._read_start

    def _read_start(self) -> bool:
        stripped = self._rest.lstrip(_SPACE)
        if not stripped:
            return False
        if stripped.startswith("{"):
            space = self._rest[: len(self._rest) - len(stripped)]
            self._rest = stripped
            self._begin_object(space, self._functions)
        else:
            self._read = self._read_content
        return True

    @override
    def _read_opening(self) -> bool:
        if self._skip(_SPACE) == "{":
            self._begin_object("", self._functions)
            return True
        self._read = self._read_content if self._rest else self._read
        return bool(self._rest)

    @override
    def _read_between(self) -> bool:
        following = self._skip(_SPACE + ";")
        if following == "{":
            self._begin_object("", self._functions)
        elif following:
            self._read = self._read_content
        return bool(following)


class ArrayReader(CallReader):
    """Reads an array of calls alone, as ``tool_choice: "required"`` makes it."""

    def __init__(self, body: ChatBody) -> None:
        super().__init__(body)
        self._read = self._read_opening

    @override
    def _read_opening(self) -> bool:
        text = self._rest.lstrip(_SPACE)
        if text.startswith("["):
            self._rest = text[1:]
            self._read = self._read_between
        elif text:
            self._read = self._read_plain
        return bool(text)

    @override
    def _read_between(self) -> bool:
        following = self._skip(_SPACE + ",")
        if following == "{":
            self._begin_object("")
        elif following:
            self._rest = self._rest[following == "]" :]
            self._read = self._read_content
        return bool(following)

    def _read_plain(self) -> bool:
        """Read text without an array."""
        self._read = self._read_content
        return True


class MistralReader(ArrayReader):
    """Reads calls behind ``[TOOL_CALLS]``: Mistral.

    Older templates write a JSON array of objects; newer ones a function's name, perhaps
    ``[CALL_ID]`` and an id, perhaps ``[ARGS]``, and the arguments.
    """

    _marker = "[TOOL_CALLS]"
    _header = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?(?:\[ARGS\]\s*)?$")

    def __init__(self, body: ChatBody) -> None:
        super().__init__(body)
        self._read = self._read_content
        self._scanner = JsonScanner(0)
        self._emit: Callable[[FunctionCallPart], None] = self._new_call()
        self._sent = 0
        self._call_id: str | None = None

    @override
    def _new_id(self) -> str:
        given, self._call_id = self._call_id, None
        return given or uuid.uuid4().hex[:9]  # their templates take nine characters

    @override
    def _read_plain(self) -> bool:
        header, brace, _ = self._rest.partition("{")
        if not brace and not self._ended:
            return False
        match = self._header.match(header)
        if match is None or not brace:
            self._say(self._marker)
            self._read = self._read_content
            return True
        self._rest = self._rest[len(header) :]
        self._call_id = match[2]
        self._scanner, self._emit, self._sent = JsonScanner(0), self._new_call(), 0
        self._emit(FunctionCallPart(name=match[1]))
        self._read = self._read_arguments
        return True

    def _read_arguments(self) -> bool:
        end = self._scanner.end(self._rest)
        until = len(self._rest) if end is None else end
        if until > self._sent:
            self._emit(FunctionCallPart(arguments=self._rest[self._sent : until]))
        self._sent = until
        if end is None and not self._ended:
            return False
        self._rest = self._rest[until:]
        self._read = self._read_content
        return True


class NamedReader(CallReader):
    """Takes all text as the arguments of the function that ``tool_choice`` names."""

    def __init__(self, body: ChatBody, *, name: str) -> None:
        super().__init__(body)
        self._emit = self._new_call()
        self._emit(FunctionCallPart(name=name))

    @override
    def _read_content(self) -> bool:
        if self._rest:
            self._emit(FunctionCallPart(arguments=self._rest))
            self._rest = ""
        return False
