# SPDX-License-Identifier: Apache-2.0

"""``unillm generate``: prompts in, text out."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

import unillm

from ..errors import ConfigError
from . import options, writing
from .commands import command
from .exit_codes import ExitCode, exit_code_of
from .prompts import (
    CliPrompt,
    InputFormat,
    count_prompts,
    file_option,
    format_option,
    open_prompts,
)
from .reporting import is_terminal, note
from .requests import Requests, Result
from .totals import Totals

if TYPE_CHECKING:
    from ..jobs.body import Bodies

_INPUT, _OUTPUT = "Prompts", "Output"


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
            help="Texts to continue. Without any, and without --file, each line of "
            "standard input is one.",
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
            help="With --chat: put this system message before each prompt.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file: JSON if it ends in .jsonl, or else the texts.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Write one JSON object for each prompt.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    constraint: options.Constraint,
    sampling: Sampling,
    engine: Annotated[options.Engine, options.Without("seed")],
) -> None:
    """Generate text for prompts from the arguments, a file or standard input.

    The text of a single prompt is streamed; several texts are written in prompt order.

    Without a sampling option the model's own defaults (generation_config) apply. Each
    given option overrides one of them, and a field of a JSON line overrides both.
    """
    if system is not None and not chat:
        raise ConfigError("--system is for chats. Add --chat.")
    as_json = as_json or (output is not None and output.suffix in (".jsonl", ".ndjson"))
    if file is not None and output is not None and _is_one_file(file, output):
        raise ConfigError(
            f"--file and --output are one file, {output}, and the answers would "
            "replace prompts that are not yet read. Give another --output."
        )
    if "logprobs" in sampling and not as_json:
        raise ConfigError("--logprobs are written as JSON only. Add --json.")
    given = {**sampling, **options.structure_of(constraint)}
    options.check_sampling(given)
    adapter = options.adapter_of(constraint, engine)
    texts = prompts or ()
    bodies = _bodies(sampling, chat=chat, system=system)
    with (
        open_prompts(texts, file, input_format, bodies) as found,
        writing.to_file(output) as empty,
    ):
        head = list(itertools.islice(found, 2))
        with unillm.Generator(model, **engine) as generator:
            empty()
            requests = Requests(
                generator=generator,
                params=attrs.evolve(generator.get_default_sampling_params(), **given),
                chat=chat,
                system=system,
                adapter=adapter,
            )
            if len(head) == 1 and not as_json and sampling.get("n", 1) == 1:
                _write_one(requests, head[0])
                return
            results = requests.results(itertools.chain(head, found))
            totals = Totals()
            if len(head) > 1 and is_terminal(sys.stderr):
                results = _with_progress(results, count_prompts(texts, file), totals)
            code = _write_all(totals.counted(results), as_json=as_json)
    if len(head) > 1 and (output is not None or is_terminal(sys.stderr)):
        note(str(totals))
    raise typer.Exit(code)


def _is_one_file(file: str, output: Path) -> bool:
    path, output = Path(os.path.expanduser(file)), Path(os.path.expanduser(output))
    return path.is_file() and output.is_file() and path.samefile(output)


def _bodies(
    sampling: Mapping[str, Any], *, chat: bool, system: str | None
) -> Bodies | None:
    """Return the maker of the requests of JSON lines."""
    from ..jobs.body import Bodies

    # A body without max_tokens asks for OpenAI's 16 tokens.
    fields = {"max_tokens": sampling.get("max_tokens")}
    return Bodies(fields=fields, chat=chat, system=system)


def _write_one(requests: Requests, prompt: CliPrompt) -> None:
    """Stream the text of the only prompt. Its error is the command's."""
    output = writing.write_stream(requests.start(prompt))
    writing.write_notes(output)
    if output.finish_reason == "length" and is_terminal(sys.stderr):
        new, context = len(output.token_ids), requests.generator.limits.max_model_len
        full = len(output.prompt_token_ids) + new >= context
        note(
            f"it ended after {new} tokens, because the context of {context} is full."
            if full
            else f"it ended after {new} tokens; --max-tokens allows more."
        )


def _write_all(results: Iterable[Result], *, as_json: bool) -> ExitCode:
    """Write every result; return the code of an error that all prompts share."""
    codes = set()
    for result in results:
        if as_json:
            writing.write_json(writing.as_json(result))
        else:
            writing.write_texts(result)
        codes.add(ExitCode.OK if result.error is None else exit_code_of(result.error))
    return codes.pop() if len(codes) == 1 else ExitCode.REQUESTS_FAILED


def _with_progress(
    results: Iterable[Result], total: int | None, totals: Totals
) -> Iterator[Result]:
    """Show a progress bar on standard error that moves aside for the results."""
    from tqdm import tqdm

    with tqdm(results, total=total, unit=" prompts", dynamic_ncols=True) as bar:
        for result in bar:
            bar.set_postfix_str(totals.rate, refresh=False)
            with tqdm.external_write_mode(file=sys.stdout):
                yield result
