# SPDX-License-Identifier: Apache-2.0

"""`CallObject`: a call as the JSON object that models write, read while it grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Container

from .parts import FunctionCallPart

_SPACE = " \t\r\n"

_ARGUMENTS = ("arguments", "parameters")
"""Keys of a call's arguments: Hermes and Mistral write the first, Llama the second."""


class JsonScanner:
    """Finds where a JSON value ends, in text that comes in parts.

    Args:
        start: Index at which the value begins.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end(self, text: str) -> int | None:
        """Return the index after the value; `None` if it goes on.

        Args:
            text: All text so far; each call has the text of the last and more.
        """
        for index in range(self._at, len(text)):
            character = text[index]
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
                    if not self._depth:
                        return index + 1
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif self._depth and character in "}]":
                self._depth -= 1
                if not self._depth:
                    return index + 1
            elif not self._depth and character in ",}]" + _SPACE:
                return index  # of a number or a word
        self._at = len(text)
        return None


class CallObject:
    """Reads ``{"name": …, "arguments": {…}}``, with the keys in any order.

    Args:
        emit: Takes the call's name, and then its arguments as they come.
        known: Names of the functions that there are. An object with another name, or
            without arguments, is not a call. `None` if the object can only be a call.
    """

    def __init__(
        self,
        emit: Callable[[FunctionCallPart], None],
        *,
        known: Container[str] | None = None,
    ) -> None:
        self.text = ""
        """All text so far."""
        self.started = False
        """Whether the name was emitted."""
        self.broken = False
        """Whether the text is not a call after all."""
        self.ended = False
        self._emit = emit
        self._known = known
        self._at = 0
        self._key = ""
        self._name: str | None = None
        self._held: str | None = None
        self._sent = 0
        self._scanner = JsonScanner(0)
        self._step: Callable[[], bool] = self._open

    def push(self, text: str) -> str:
        """Take new text; return what follows the end of the object."""
        self.text += text
        try:
            while not (self.broken or self.ended) and self._step():
                pass
        except ValueError:  # a text with an escape that does not exist
            self.broken = True
        return self.text[self._at :] if self.ended else ""

    # --------------------------------------------------------------------------- steps

    def _next(self, skipped: str = _SPACE) -> str:
        """Return the next character that is not skipped; "" if it is yet to come."""
        while self._at < len(self.text) and self.text[self._at] in skipped:
            self._at += 1
        return self.text[self._at : self._at + 1]

    def _open(self) -> bool:
        return self._take("{", self._before_key)

    def _take(self, expected: str, then: Callable[[], bool]) -> bool:
        character = self._next()
        if not character:
            return False
        self.broken = character != expected
        self._at += 1
        self._step = then
        return True

    def _before_key(self) -> bool:
        character = self._next(_SPACE + ",")
        if character == "}":
            self._at += 1
            self._end()
        elif character == '"':
            self._scanner = JsonScanner(self._at)
            self._step = self._in_key
        elif character:
            self.broken = True
        return bool(character)

    def _in_key(self) -> bool:
        end = self._scanner.end(self.text)
        if end is None:
            return False
        self._key = json.loads(self.text[self._at : end])
        self._at = end
        self._step = self._colon
        return True

    def _colon(self) -> bool:
        return self._take(":", self._before_value)

    def _before_value(self) -> bool:
        character = self._next()
        if not character:
            return False
        self._scanner = JsonScanner(self._at)
        self._sent = self._at
        streams = self._key in _ARGUMENTS and character != '"'
        self._step = self._in_arguments if streams else self._in_value
        return True

    def _in_value(self) -> bool:
        end = self._scanner.end(self.text)
        if end is None:
            return False
        value = json.loads(self.text[self._at : end])
        self._at = end
        self._step = self._before_key
        if self._key == "name":
            self._set_name(value)
        elif self._key in _ARGUMENTS:
            self._give(value)  # arguments as JSON in a text
        return True

    def _in_arguments(self) -> bool:
        end = self._scanner.end(self.text)
        until = len(self.text) if end is None else end
        self._give(self.text[self._sent : until])
        self._sent = until
        if end is None:
            return False
        self._at = end
        self._step = self._before_key
        return True

    # --------------------------------------------------------------------------- parts

    def _set_name(self, name: object) -> None:
        known = self._known is None or name in self._known
        if not isinstance(name, str) or not name or not known:
            self.broken = True
            return
        self._name = name
        if self._held is not None:
            self._give("")

    def _give(self, arguments: str) -> None:
        self._held = (self._held or "") + arguments
        if self._name is None:
            return
        if not self.started:
            self.started = True
            self._emit(FunctionCallPart(name=self._name))
        if self._held:
            self._emit(FunctionCallPart(arguments=self._held))
            self._held = ""

    def _end(self) -> None:
        if self._held is None and self._known is None and self._name is not None:
            self._give("{}")
        self.broken = not self.started
        self.ended = self.started
