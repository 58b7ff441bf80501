# SPDX-License-Identifier: Apache-2.0

"""``unillm chat``: a conversation at the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

import unillm

from . import options
from .conversation import Conversation
from .exit_codes import ExitCode
from .reporting import is_terminal, note, reported
from .turns import read_turns, refuse

if TYPE_CHECKING:
    from .. import Generator, SamplingParams


def chat(
    context: typer.Context,
    *,
    model: options.Model = "unillm/tiny",
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="What the system says first."),
    ] = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    min_tokens: options.MinTokens = None,
    stop: options.Stop = None,
    ignore_eos: options.IgnoreEos = False,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    truncate_prompt_tokens: options.TruncatePromptTokens = None,
    backend: options.Backend = None,
    dtype: options.Dtype = "auto",
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    option: options.BackendOption = None,
    debug: options.Debug = False,
) -> None:
    """Talk with a model: a line is a message, /help shows the commands.

    Ctrl-C stops an answer; at the prompt it leaves, as Ctrl-D does. From a pipe, each
    line is a turn.

    Without any sampling option the model's own defaults apply (its
    generation_config). Those that are given are put on top of these defaults.
    """
    with reported(context, debug=debug):
        given = options.given_ones(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            stop=stop or None,
            ignore_eos=ignore_eos or None,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            truncate_prompt_tokens=truncate_prompt_tokens,
        )
        options.check_sampling(given)
        with unillm.Generator(
            model,
            backend=backend or "auto",
            tokenizer=tokenizer,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            trust_remote_code=trust_remote_code,
            backend_options=options.parse_key_values(option or ()),
        ) as generator:
            params = _params(generator, given)
            failures = _talk(
                Conversation(generator=generator, params=params, system=system)
            )
        # Who sits at the terminal has seen what failed; who reads a pipe has not.
        if failures and not is_terminal(sys.stdin):
            raise typer.Exit(ExitCode.REQUESTS_FAILED)


def _params(generator: Generator, given: dict[str, Any]) -> SamplingParams:
    """Put what was given on top of the model's defaults.

    Where nobody says how long an answer may be, the context does: the 16 tokens that
    are the default of an API end in the middle of what a person wants to read.
    """
    defaults = generator.get_default_sampling_params()
    if defaults.max_tokens == unillm.SamplingParams().max_tokens:
        given = {"max_tokens": None, **given}
    return options.params_for(generator, given) or defaults


def _talk(conversation: Conversation) -> int:
    """Take turns until the input ends or says so; return how many failed."""
    if is_terminal(sys.stdin):
        generator = conversation.generator
        note(
            f"{generator.config.model} on {generator.backend}. /help shows the "
            "commands, Ctrl-D leaves."
        )
    for turn in read_turns():
        if not turn.is_whole:
            refuse(turn)
            conversation.failures += 1
        elif not conversation.take(turn):
            break
    return conversation.failures
