# SPDX-License-Identifier: Apache-2.0

"""Server-sent events from bytes that arrive in any pieces.

The line decoder of httpx also splits at characters that JSON may hold as they are, such
as U+2028, so it cannot be used here.

References:
    WHATWG HTML, "Server-sent events", section "Parsing an event stream".
"""

from __future__ import annotations

from collections.abc import Iterator


class TooLargeError(ValueError):
    """An event or a body is larger than the limit."""


class EventReader:
    """Joins pieces to lines, and lines to events.

    Args:
        limit: Most bytes of one event.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the data of each event that *piece* completes.

        Raises:
            TooLargeError: An event is longer than the limit.
            UnicodeDecodeError: An event is not UTF-8.
        """
        for line in self._lines(piece):
            if line:
                self._take(line)
            elif self._data:
                data, self._data, self._size = b"\n".join(self._data), [], 0
                yield data.decode()

    def _lines(self, piece: bytes) -> Iterator[bytes]:
        """Yield whole lines; they end with CR LF, LF or CR."""
        if self._after_return and piece[:1] == b"\n":  # the second half of CR LF
            piece = piece[1:]
            self._after_return = False
        if piece:
            self._after_return = piece[-1:] == b"\r"
        *whole, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in whole:
            line = bytes(self._line) + end
            self._line.clear()
            yield line
        self._line += rest
        if len(self._line) + self._size > self._limit:
            raise TooLargeError(f"an event has more than {self._limit} bytes")

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":  # others are comments, names and ids of events
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            if self._size > self._limit:
                raise TooLargeError(f"an event has more than {self._limit} bytes")
