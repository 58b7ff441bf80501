# SPDX-License-Identifier: Apache-2.0

"""The command line at a terminal: keys go in, and a screen shows what a person sees."""

from __future__ import annotations

import signal
import sys

import pexpect
import pyte

CTRL_C, CTRL_D, ENTER, UP = "\x03", "\x04", "\r", "\x1b[A"
LIMIT_S = 60


class Screen:
    """A terminal with a program on it.

    Args:
        args: Arguments of ``unillm``.
        environment: Variables of the process.
        columns: Width.
        lines: Height.
    """

    def __init__(self, args, environment, *, columns=80, lines=40):
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "unillm", *args],
            # A terminal without cursor reports: nothing here would answer them.
            env={**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            dimensions=(lines, columns),
            encoding="utf-8",
            timeout=LIMIT_S,
            # A test in the background of a shell has inherited that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.process.logfile_read = self
        self.process.delaybeforesend = None

    def write(self, text):
        """Draw what the program writes; `pexpect` calls it."""
        self._stream.feed(text)

    def flush(self):
        """Do nothing; `pexpect` calls it."""

    @property
    def text(self):
        """The shown lines, without the spaces at their ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, *keys):
        """Press keys."""
        self.process.send("".join(keys))

    def wait_for(self, condition):
        """Read until the screen's text fulfils a condition, and return the text.

        Args:
            condition: A function of the text, or a part of it.
        """
        shows = condition if callable(condition) else (lambda text: condition in text)
        while not shows(self.text):
            try:
                self.process.expect(".+", timeout=LIMIT_S)
            except (pexpect.TIMEOUT, pexpect.EOF) as error:
                raise AssertionError(f"no {condition!r} on:\n{self.text}") from error
        return self.text

    def end(self):
        """Wait for the end of the program, and return its exit code."""
        self.process.expect(pexpect.EOF)
        self.process.wait()
        self.process.close()
        return self.process.exitstatus

    def close(self):
        """Kill the program, if it has not ended."""
        if self.process.isalive():
            self.process.kill(signal.SIGKILL)
            self.process.wait()
        self.process.close()
