# SPDX-License-Identifier: Apache-2.0

"""`Channel`: messages over one end of a socket pair.

A frame is four bytes with its length and then the message. A length above `MAX_FRAME`
is refused before any memory is taken for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec.msgpack import Decoder, Encoder

from .messages import FromHost, ToHost

MAX_FRAME = 256 * 2**20
"""Bytes of the longest message: log-probabilities of a whole vocabulary of 128 k for a
hundred tokens."""

_HEADER = 4
_CHUNK = 256 * 1024

M = TypeVar("M")


class HasFileno(Protocol):
    """**Protocol:** an object with a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor; negative once closed."""


class ProtocolError(Exception):
    """The other side sent what is not a message."""


class FrameTooLongError(Exception):
    """A message is longer than `MAX_FRAME`."""


def _plain(value: Any) -> Any:
    """Return numbers and arrays of other libraries as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


ENCODER = Encoder(enc_hook=_plain)
_OF_HOST: Decoder[FromHost] = Decoder(FromHost)
_OF_PROGRAM: Decoder[ToHost] = Decoder(ToHost)

_OPEN: weakref.WeakSet[Channel[Any]] = weakref.WeakSet()
"""Ends of this process. A forked child closes its copies, so that the other side sees
the end of this process."""


def _close_copies() -> None:
    for channel in list(_OPEN):
        channel.close()


if hasattr(os, "register_at_fork"):  # else no process forks
    os.register_at_fork(after_in_child=_close_copies)


def _frame(message: Any) -> bytes:
    body = ENCODER.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameTooLongError(f"{len(body)} bytes, and {MAX_FRAME} are allowed")
    return len(body).to_bytes(_HEADER, "big") + body


class Channel(Generic[M]):
    """One end. A thread may send while another one receives.

    Args:
        end: A connected stream socket.
        decoder: Decodes the messages of the other side.
    """

    def __init__(self, end: socket.socket, decoder: Decoder[M]) -> None:
        self._end = end
        self._decoder = decoder
        self._received = bytearray()
        self._unsent = bytearray()
        self._messages: deque[M] = deque()
        end.setblocking(False)
        _OPEN.add(self)

    @classmethod
    def to_host(cls, end: socket.socket) -> Channel[FromHost]:
        """Return the program's end."""
        return Channel(end, _OF_HOST)

    @classmethod
    def to_program(cls, end: socket.socket) -> Channel[ToHost]:
        """Return the other process's end."""
        return Channel(end, _OF_PROGRAM)

    def fileno(self) -> int:
        """Return the descriptor, for `select`; -1 once closed."""
        return self._end.fileno()

    def send(self, message: Any) -> None:
        """Send a message, and meanwhile receive what the other side sends.

        Raises:
            FrameTooLongError: The message is too long; nothing was sent.
            OSError: The other side is gone.
        """
        rest = memoryview(_frame(message))
        while rest:
            with contextlib.suppress(BlockingIOError):
                rest = rest[self._end.send(rest) :]
                continue
            # Both sides may be sending: one of them has to receive.
            if readable([self], None, sending=[self]) and not self._fill():
                raise ConnectionResetError("the other side is gone")

    def post(self, message: Any) -> None:
        """Send a message without waiting; `flush` and `receive` send the rest of it.

        One thread alone posts and receives, and no other one sends.

        Raises:
            FrameTooLongError: The message is too long; nothing was sent.
            OSError: The other side is gone.
        """
        self._unsent += _frame(message)
        self.flush()

    def flush(self) -> None:
        """Send as much of the posted messages as the other side takes now.

        Raises:
            OSError: The other side is gone.
        """
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self._end.send(self._unsent)]

    def has_unsent(self) -> bool:
        """Whether a part of the posted messages is not sent."""
        return bool(self._unsent)

    def receive(self, timeout_s: float | None = None) -> M:
        """Wait for the next message, and meanwhile send what was posted.

        Raises:
            EOFError: The other side is gone.
            ProtocolError: It sent what is not a message.
            TimeoutError: No message was whole in time.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.pending():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"no message within {timeout_s:g} s")
            sending = [self] if self._unsent else []
            if readable([self], left, sending=sending) and not self._fill():
                raise EOFError("the other side is gone")
            with contextlib.suppress(OSError):  # its last messages come first
                self.flush()
        return self._messages.popleft()

    def pending(self) -> bool:
        """Decode what was received; return whether there is a message."""
        if not self._messages:
            self._decode()
        return bool(self._messages)

    def poll(self) -> bool:
        """Receive what is there without waiting; return whether there is a message.

        Raises:
            EOFError: The other side is gone, and all its messages are taken.
            ProtocolError: It sent what is not a message.
        """
        if self.pending():
            return True
        if not self._fill():
            raise EOFError("the other side is gone")
        return self.pending()

    def next(self) -> M | None:
        """Return the message that `receive` would return now, and leave it."""
        return self._messages[0] if self._messages else None

    def shut_down(self) -> None:
        """Let both sides see the end, from any thread."""
        with contextlib.suppress(OSError):  # closed
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end. A second call does nothing."""
        self._end.close()

    def _fill(self) -> bool:
        """Read what is there; return false at the end."""
        try:
            found = self._end.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # reset, or closed here
            return False
        self._received += found
        return bool(found)

    def _decode(self) -> None:
        received = self._received
        start = 0
        while len(received) - start >= _HEADER:
            end = start + _HEADER
            length = int.from_bytes(received[start:end], "big")
            if length > MAX_FRAME:
                raise ProtocolError(
                    f"it announced a message of {length} bytes, and {MAX_FRAME} are "
                    "allowed"
                )
            if len(received) - end < length:
                break
            body = bytes(memoryview(received)[end : end + length])
            try:
                self._messages.append(self._decoder.decode(body))
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise ProtocolError(
                    f"it sent {body[:40]!r}, which is not a message: {error}"
                ) from error
            start = end + length
        if start:
            del received[:start]


def readable(
    ends: Sequence[HasFileno],
    timeout_s: float | None,
    *,
    sending: Sequence[HasFileno] = (),
) -> list[HasFileno]:
    """Wait until something can be read, and return where.

    Args:
        ends: Where to look. Descriptors may be above those that `select.select` takes.
        timeout_s: Seconds to wait; `None` for as long as it takes.
        sending: Those of *ends* for which to wait no longer than until they can be
            written to.
    """
    poll = select.poll()
    # Asked once: another thread may close an end meanwhile.
    numbers = [each.fileno() for each in ends]
    for each, number in zip(ends, numbers, strict=True):
        if number < 0:  # closed here
            return [each]
        written = select.POLLOUT if each in sending else 0
        poll.register(number, select.POLLIN | written)
    found = dict(poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000))
    return [
        each
        for each, number in zip(ends, numbers, strict=True)
        if found.get(number, 0) & ~select.POLLOUT
    ]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new socket pair, this program's first."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
