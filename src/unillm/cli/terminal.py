# SPDX-License-Identifier: Apache-2.0

"""The input line of a chat at a terminal, with a history that outlives the program.

Enter sends. A paste is inserted as it is, so that its lines are one message. Imported
only at a terminal: prompt_toolkit takes time to load.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import create_output

from .reporting import note
from .state import history_file
from .turns import as_turn, is_open

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyPressEvent

    from .turns import Turn

_PROMPT, _CONTINUATION = "> ", "| "


class TerminalInput:
    """Reads turns from the terminal."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=[("", "\n"), ("bold", _PROMPT)],
            history=_history(),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=_continuation,
            # Standard output may be a file.
            output=create_output(always_prefer_tty=True),
        )

    def read(self) -> Turn | None:
        """Return the next turn that is not empty; `None` at Ctrl-D."""
        while True:
            try:
                text = self._session.prompt()
            except KeyboardInterrupt:  # a signal of another process
                continue
            except EOFError:
                return None
            turn = as_turn(text)
            if turn.text.strip():
                return turn


def _continuation(width: int, line: int, wraps: int) -> str:
    """Return what stands before a further line, or before the rest of a long one."""
    del line
    return " " * width if wraps else _CONTINUATION


def _history() -> History:
    """Return the history of the user's file, which others cannot read."""
    path = history_file()
    if path is not None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
        except OSError:
            path = None
    return InMemoryHistory() if path is None else FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            run_in_terminal(lambda: note("Ctrl-D or /exit leaves the chat."))

    keys.add("enter")(send)
    # Not Ctrl-J too: so arrives an Enter that was typed during an answer.
    keys.add("escape", "enter")(begin_line)
    keys.add("c-c")(clear)
    return keys
