# SPDX-License-Identifier: Apache-2.0

"""``unillm chat``: a conversation at the terminal."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import unillm

from ..errors import ConfigError, UnillmError
from . import options, writing
from .chat_commands import take
from .commands import command
from .conversation import Conversation
from .exit_codes import ExitCode
from .reporting import is_terminal, note, say_error
from .state import rescue_file
from .turns import QUOTES, read_turns

if TYPE_CHECKING:
    from .. import Generator, RequestHandle, RequestOutput
    from .conversation import Show
    from .terminal import TerminalInput

_BUNDLED = "unillm/tiny"
_TASKS = (
    "Count from 3 to 9:",
    "Add 17 and 25:",
    "Spell the word apple:",
    "Name the day after Monday:",
    "List the months from May:",
    "Repeat: blue cat:",
)
"""Tasks that the bundled model was trained for."""
_A_REAL_ONE = "unillm chat --model Qwen/Qwen3-0.6B"


@command
def chat(
    *,
    model: options.Model = _BUNDLED,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Begin with this system message."),
    ] = None,
    constraint: options.Constraint,
    sampling: options.Sampling,
    engine: Annotated[options.Engine, options.Without("seed")],
) -> None:
    """Talk with a model: each line is a message, /help lists the commands.

    Ctrl-C stops an answer or clears the line, and Ctrl-D leaves. From a pipe, each line
    is a turn.

    Without a sampling option the model's own defaults (generation_config)
    apply. Each given option overrides one of them.
    """
    given = {**sampling, **options.structure_of(constraint)}
    options.check_sampling(given)
    adapter = options.adapter_of(constraint, engine)
    open_model = functools.partial(unillm.Generator, **engine)
    conversation = Conversation(
        open_model=open_model,
        generator=open_model(model),
        show=_show_of_stdout(),
        given=given,
        system=system,
        adapter=adapter,
    )
    with contextlib.closing(conversation):
        if is_terminal(sys.stdin):
            _talk_at_terminal(conversation)
            return  # the user has seen each error
        _talk_in_pipe(conversation)
    if conversation.failures:
        raise typer.Exit(ExitCode.REQUESTS_FAILED)


def _show_of_stdout() -> Show:
    """Return how answers are shown: rendered on a terminal, else as they are."""
    if not is_terminal(sys.stdout) or os.environ.get("TERM") in (
        None,
        "dumb",
        "unknown",
    ):
        return show_text
    from .rendering import show_markdown

    return show_markdown


def show_text(handle: RequestHandle) -> tuple[RequestOutput | None, str]:
    """Write an answer as it comes; Ctrl-C stops it. See `conversation.Show`.

    Raises:
        RequestError: The request failed.
    """
    shown: list[str] = []
    output = None
    try:
        for delta in handle:
            shown.append(delta.text)
            writing.write(delta.text)
        output = handle.result()
    except KeyboardInterrupt:
        pass
    finally:
        handle.cancel()
        if not (shown and shown[-1].endswith("\n")):
            writing.write("\n")
    return output, "".join(shown)


def _talk_in_pipe(conversation: Conversation) -> None:
    """Take turns until the input ends or a command leaves."""
    for turn in read_turns():
        if not turn.is_whole:
            lines = turn.text.count("\n") + 1
            say_error(
                f"The input ended in a block of {lines} lines, which was not sent. End "
                f"the block with {QUOTES}."
            )
            conversation.failures += 1
        elif not take(conversation, turn):
            break


def _talk_at_terminal(conversation: Conversation) -> None:
    """Take turns until the user leaves; Ctrl-C never does."""
    from .terminal import TerminalInput

    _write_banner(conversation.generator)
    reader = TerminalInput()
    try:
        while _take_turn(conversation, reader):
            pass
    except UnillmError:
        _rescue(conversation)
        raise


def _rescue(conversation: Conversation) -> None:
    """Save a conversation whose engine has died."""
    path = rescue_file()
    if path is None or not conversation.history:
        return
    conversation.file = path
    try:
        conversation.save(path)
    except ConfigError as error:
        say_error(str(error))
    else:
        note(f"the conversation is in {path}; /load goes on with it.")


def _take_turn(conversation: Conversation, reader: TerminalInput) -> bool:
    """Read a turn and take it; return whether the chat goes on."""
    try:
        turn = reader.read()
        return turn is not None and take(conversation, turn)
    except KeyboardInterrupt:  # not in an answer, which handles it
        note("stopped.")
        return True


def _write_banner(generator: Generator) -> None:
    from rich.columns import Columns
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    name = generator.config.model
    console.print(f"{name} on {generator.backend}", style="bold")
    if name == _BUNDLED:
        console.print(
            "A model of 0.8 million parameters, for tests and examples. It was trained "
            "for these tasks and answers anything else with nonsense:"
        )
        console.print(Columns([f"  {task}" for task in _TASKS], padding=(0, 2)))
        console.print(f"For a conversation, load a real model:\n  {_A_REAL_ONE}")
    console.print("/help shows the commands, Ctrl-D leaves.", style="dim")
