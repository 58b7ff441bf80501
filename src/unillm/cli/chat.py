# SPDX-License-Identifier: Apache-2.0

"""``unillm chat``: a conversation at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

import unillm

from . import options
from .commands import command
from .conversation import Conversation
from .exit_codes import ExitCode
from .reporting import is_terminal, note, say_error
from .turns import QUOTES, read_turns

if TYPE_CHECKING:
    from .. import Generator, SamplingParams


@command
def chat(
    *,
    model: options.Model = "unillm/tiny",
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="System message of the chat."),
    ] = None,
    constraint: options.Constraint,
    sampling: options.Sampling,
    engine: Annotated[options.Engine, options.Without("seed")],
) -> None:
    """Talk with a model: each line is a message, /help lists the commands.

    Ctrl-C stops an answer. At the prompt, Ctrl-C or Ctrl-D ends the chat. From a pipe,
    each line is a turn.

    Without a sampling option the model's own defaults (generation_config)
    apply. Each given option overrides one of them.
    """
    given = {**sampling, **options.structure_of(constraint)}
    options.check_sampling(given)
    adapter = options.adapter_of(constraint, engine)
    with unillm.Generator(model, **engine) as generator:
        conversation = Conversation(
            generator=generator,
            params=_params(generator, given),
            system=system,
            adapter=adapter,
        )
        failures = _talk(conversation)
    # At a terminal the user has seen each error; a script sees the exit code alone.
    if failures and not is_terminal(sys.stdin):
        raise typer.Exit(ExitCode.REQUESTS_FAILED)


def _params(generator: Generator, given: Mapping[str, Any]) -> SamplingParams:
    """Return the model's default params with the given ones.

    Where neither limits an answer, the context does: the API's default of 16 tokens
    would end an answer in the middle.
    """
    params = generator.get_default_sampling_params()
    if params.max_tokens == unillm.SamplingParams().max_tokens:
        params = attrs.evolve(params, max_tokens=None)
    return attrs.evolve(params, **given)


def _talk(conversation: Conversation) -> int:
    """Take turns until the input ends or ``/quit``; return how many turns failed."""
    if is_terminal(sys.stdin):
        generator = conversation.generator
        note(
            f"{generator.config.model} on {generator.backend}. /help shows the "
            "commands, Ctrl-D leaves."
        )
    for turn in read_turns():
        if not turn.is_whole:
            lines = turn.text.count("\n") + 1
            say_error(
                f"The input ended in a block of {lines} lines, which was not sent. End "
                f"the block with {QUOTES}."
            )
            conversation.failures += 1
        elif not conversation.take(turn):
            break
    return conversation.failures
