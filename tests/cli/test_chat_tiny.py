# SPDX-License-Identifier: Apache-2.0

"""A chat with the bundled model: at a terminal of its own, and through pipes."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

import unillm

COUNT = "Count from 3 to 9:"
ANSWER = "3 4 5 6 7 8 9"
ENDLESS = ("--ignore-eos", "--max-tokens", "900")
CTRL_C, CTRL_D = "\x03", "\x04"

# The child takes the terminal as its own, so that Ctrl-C there is a signal to it. Tests
# in the background of a shell may have inherited that the signal is ignored.
_IN_TERMINAL = """
import fcntl, runpy, signal, termios
signal.signal(signal.SIGINT, signal.default_int_handler)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("unillm", run_name="__main__")
"""


class Terminal:
    """A process at a terminal: `type` into it, and `wait_for` its output."""

    def __init__(self, args, environment):
        self._screen, child_side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *args],
            env={**environment, "TERM": "dumb"},
            stdin=child_side,
            stdout=child_side,
            stderr=child_side,
            start_new_session=True,
        )
        os.close(child_side)
        self.shown = ""

    def type(self, text):
        if text == CTRL_C:
            # readline shows its prompt a moment before it waits for input. Python
            # handles a signal in between with the next key only.
            time.sleep(0.5)
        os.write(self._screen, text.encode())

    def wait_for(self, pattern, timeout=30):
        """Return the output until the end of *pattern*, and drop it from `shown`."""
        until = time.monotonic() + timeout
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < until, f"no {pattern!r} in {self.shown!r}"
            assert self._read(), f"it ended without {pattern!r}: {self.shown!r}"
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def _read(self):
        if not select.select([self._screen], [], [], 1)[0]:
            return True
        try:
            new = os.read(self._screen, 4096)
        except OSError:  # on Linux: the other side is closed
            return False
        self.shown += new.decode(errors="replace")
        return bool(new)

    def end(self):
        """Wait for the end; return the exit code and the rest of the output."""
        until = time.monotonic() + 30
        while self._read():
            assert time.monotonic() < until, f"it goes on after {self.shown!r}"
        return self.process.wait(30), self.shown

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(process_environment):
    """Start a chat at a terminal and wait for its prompt; it is ended afterwards."""
    started = []

    def start(*args):
        started.append(Terminal(["chat", *args], process_environment))
        started[-1].wait_for("Ctrl-D leaves")
        started[-1].wait_for("> ")
        return started[-1]

    yield start
    for each in started:
        each.close()


# ------------------------------------------------------------------------- a terminal


def test_a_chat_at_a_terminal(terminal):
    chat = terminal("--max-model-len", "96")

    chat.type(f"{COUNT}\n")
    chat.wait_for(f"\n{ANSWER}\r\n> ")
    chat.type('"""Count from 3\n')
    chat.wait_for(r"\| ")
    chat.type('to 9:"""\n')
    chat.wait_for(r"\r\n\S.*\r\n> ")
    chat.type("/reset\n/params max_tokens=5\n")
    chat.wait_for("> .*\n> ")
    chat.type(f"{COUNT}\n")
    chat.wait_for("\n3 4 5\r\n")
    chat.wait_for("ended after 5 tokens; /params max_tokens=… allows more")
    chat.type("Repeat: " + "word " * 100 + "\n")
    chat.wait_for("at most 95 fit")
    chat.wait_for("> ")
    chat.type(CTRL_D)
    code, rest = chat.end()

    assert code == 0  # the user has seen the error
    assert rest.strip() == ""


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal):
    """The answer is shown as it comes: its beginning is there, its end is not."""
    chat = terminal(*ENDLESS)

    chat.type(f"{COUNT}\n")
    chat.wait_for(r":\r\n\S")
    chat.type(CTRL_C)
    stopped = chat.wait_for("stopped; the answer until then is remembered")
    chat.wait_for("> ")
    chat.type("/params ignore_eos=false max_tokens=4\n")
    chat.wait_for("> ")
    chat.type(f"{COUNT}\n")
    chat.wait_for(r":\r\n\S.*\r\n")
    chat.wait_for("> ")
    chat.type("/quit\n")
    code, rest = chat.end()

    assert len(stopped) < 900
    assert "Traceback" not in rest
    assert code == 0


def test_ctrl_c_drops_a_block_and_at_the_prompt_ends_the_chat(terminal):
    chat = terminal()

    chat.type('"""first\n')
    chat.wait_for(r"\| ")
    chat.type(CTRL_C)
    chat.wait_for("the block is dropped")
    chat.wait_for("> ")
    chat.type("half a mess")
    chat.wait_for("half a mess")
    chat.type(CTRL_C)
    code, rest = chat.end()

    assert code == 130
    assert "Traceback" not in rest


# ---------------------------------------------------------------------------- a pipe


def test_the_library_gives_the_same_answers_to_the_same_history(cli):
    history = [
        {"role": "system", "content": "You are a friendly robot."},
        {"role": "user", "content": COUNT},
    ]
    with unillm.Generator("unillm/tiny") as generator:
        [first] = generator.chat(history)
        history += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "Add 20 and 22:"},
        ]
        [second] = generator.chat(history)

    result = cli(
        *("chat", "--system", history[0]["content"]),
        input=f"{COUNT}\nAdd 20 and 22:\n",
    )

    assert result.stdout == f"{first.text}\n{second.text}\n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_a_reset_makes_room_in_a_full_context(cli):
    turns = [f"{COUNT}\n"] * 12

    full = cli("chat", "--max-model-len", 96, input="".join(turns))
    reset = cli("chat", "--max-model-len", 96, input="/reset\n".join(turns))

    assert "The conversation with it has " in full.stderr
    assert "at most 95 fit" in full.stderr
    assert "/reset for a new conversation" in full.stderr
    assert full.exit_code == 1
    assert "error" not in reset.stderr
    assert reset.exit_code == 0


def test_params_that_only_the_engine_refuses_change_nothing(cli):
    result = cli(
        *("chat", "--max-tokens", 2),
        input=f"/params stop_token_ids=[123456] max_tokens=9\n/params\n{COUNT}\n",
    )

    assert "123456, out of vocabulary" in result.stderr
    assert "max_tokens=2\n" in result.stderr
    assert result.exit_code == 1


def test_bytes_that_are_not_utf8_are_refused_and_the_chat_continues(cli):
    result = cli("chat", input=b"gr\xfcn\nAdd 20 and 22:\n")

    assert "not valid Unicode" in result.stderr
    assert result.stdout == "42\n"
    assert result.exit_code == 1
