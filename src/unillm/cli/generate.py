# SPDX-License-Identifier: Apache-2.0

"""``unillm generate``: prompts in, text out."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Annotated

import attrs
import typer

import unillm

from ..errors import ConfigError
from . import options, writing
from .commands import command
from .exit_codes import ExitCode, exit_code_of
from .prompts import CliPrompt, InputFormat, file_option, format_option, open_prompts
from .reporting import is_terminal, note
from .requests import Requests, Result

_INPUT = "Prompts"


class Sampling(options.Sampling, total=False):
    """Options for more than the text of one answer."""

    n: Annotated[
        int, options.sampling("Generate this many completions of each prompt.")
    ]
    logprobs: Annotated[
        int,
        options.sampling(
            "With --json: write log-probabilities of the chosen token and the k most "
            "probable ones."
        ),
    ]


@command
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts to continue. Without any, and without --file, standard input "
            "has one prompt a line.",
            show_default=False,
        ),
    ] = None,
    *,
    model: options.Model = "unillm/tiny",
    file: Annotated[str | None, file_option(_INPUT)] = None,
    input_format: Annotated[InputFormat, format_option(_INPUT)] = InputFormat.AUTO,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Send each prompt as a user message, in the model's chat template.",
            rich_help_panel=_INPUT,
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="With --chat: system message before each prompt.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object for each prompt.")
    ] = False,
    sampling: Sampling,
    engine: options.Loading,
) -> None:
    """Generate text for prompts from the arguments, a file or standard input.

    The text of a single prompt is streamed; several texts are written in prompt order.

    Without a sampling option the model's own defaults (generation_config) apply. Each
    given option overrides one of them.
    """
    if system is not None and not chat:
        raise ConfigError("--system is for chats. Add --chat.")
    if "logprobs" in sampling and not as_json:
        raise ConfigError("--logprobs are written as JSON only. Add --json.")
    options.check_sampling(sampling)
    texts = prompts or ()
    with open_prompts(texts, file, input_format) as found:
        head = list(itertools.islice(found, 2))
        with unillm.Generator(model, **engine) as generator:
            requests = Requests(
                generator=generator,
                params=attrs.evolve(
                    generator.get_default_sampling_params(), **sampling
                ),
                chat=chat,
                system=system,
            )
            if len(head) == 1 and not as_json and sampling.get("n", 1) == 1:
                _write_one(requests, head[0])
                return
            results = requests.results(itertools.chain(head, found))
            if len(head) > 1 and is_terminal(sys.stderr):
                results = _with_progress(results, len(texts) or None)
            code = _write_all(results, as_json=as_json)
    raise typer.Exit(code)


def _write_one(requests: Requests, prompt: CliPrompt) -> None:
    """Stream the text of the only prompt. Its error is the command's."""
    output = writing.write_stream(requests.start(prompt))
    writing.write_notes(output)
    if output.finish_reason == "length" and is_terminal(sys.stderr):
        count = len(output.token_ids)
        note(f"it ended after {count} tokens; --max-tokens allows more.")


def _write_all(results: Iterator[Result], *, as_json: bool) -> ExitCode:
    """Write every result; return the code of an error that all prompts share."""
    codes = set()
    for result in results:
        if as_json:
            writing.write_json(writing.as_json(result))
        else:
            writing.write_texts(result)
        codes.add(ExitCode.OK if result.error is None else exit_code_of(result.error))
    return codes.pop() if len(codes) == 1 else ExitCode.REQUESTS_FAILED


def _with_progress(results: Iterator[Result], total: int | None) -> Iterator[Result]:
    """Show a progress bar on standard error that moves aside for the results."""
    from tqdm import tqdm

    with tqdm(results, total=total, unit=" prompts", dynamic_ncols=True) as bar:
        for result in bar:
            with tqdm.external_write_mode(file=sys.stdout):
                yield result
