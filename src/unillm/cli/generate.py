# SPDX-License-Identifier: Apache-2.0

"""``unillm generate``: prompts in, text out."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

import unillm

from ..errors import ConfigError
from . import options, writing
from .exit_codes import ExitCode, exit_code_of
from .prompts import CliPrompt, InputFormat, Source
from .reporting import is_terminal, note, reported
from .requests import Requests, Result

if TYPE_CHECKING:
    from .. import Generator, SamplingParams

SAMPLING = "Sampling (given ones change the model's own defaults, the rest stay)"
INPUT = "Prompts"


def _sampling(flag: str, help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(
        flag,
        help=help_text,
        metavar=metavar,
        rich_help_panel=SAMPLING,
        show_default=False,
    )


def _engine(flag: str, help_text: str, metavar: str) -> Any:
    return typer.Option(
        flag, help=help_text, metavar=metavar, rich_help_panel=options.ENGINE
    )


def generate(
    context: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts to continue. Without any, and without --file, they are read "
            "from standard input, one a line.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Directory, hub id, or the bundled unillm/tiny."
        ),
    ] = "unillm/tiny",
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Read the prompts from a file, - for standard input: one a line, "
            "empty lines are left out; or JSON lines with prompt, prompt_token_ids "
            "or messages.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    input_format: Annotated[
        InputFormat,
        typer.Option(
            "--input-format",
            help="How a file is read; auto means jsonl if its name ends so.",
            rich_help_panel=INPUT,
        ),
    ] = InputFormat.AUTO,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Each prompt is what a user says; the model's chat template is used.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            metavar="TEXT",
            help="With --chat: what the system says first.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write one JSON object a prompt, on a line."),
    ] = False,
    temperature: Annotated[
        float | None, _sampling("--temperature", "0 is greedy; up to 2.")
    ] = None,
    top_p: Annotated[
        float | None,
        _sampling("--top-p", "Keep the tokens that have this probability together."),
    ] = None,
    top_k: Annotated[
        int | None, _sampling("--top-k", "Keep the k most probable tokens; 0: all.")
    ] = None,
    min_p: Annotated[
        float | None,
        _sampling("--min-p", "Drop tokens under this share of the most probable one."),
    ] = None,
    seed: Annotated[
        int | None, _sampling("--seed", "Makes each prompt's answer reproducible.")
    ] = None,
    max_tokens: Annotated[
        int | None, _sampling("--max-tokens", "New tokens at most.")
    ] = None,
    min_tokens: Annotated[
        int | None, _sampling("--min-tokens", "Nothing ends it before.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        _sampling("--stop", "Text that ends it; may be given again.", "TEXT"),
    ] = None,
    n: Annotated[int | None, _sampling("--n", "Completions for each prompt.")] = None,
    ignore_eos: Annotated[
        bool, _sampling("--ignore-eos", "Go on after the model's end.")
    ] = False,
    repetition_penalty: Annotated[
        float | None,
        _sampling("--repetition-penalty", "Over 1 discourages what was there."),
    ] = None,
    presence_penalty: Annotated[
        float | None,
        _sampling("--presence-penalty", "Off the logit of what was generated."),
    ] = None,
    frequency_penalty: Annotated[
        float | None, _sampling("--frequency-penalty", "The same, for each time.")
    ] = None,
    logprobs: Annotated[
        int | None,
        _sampling("--logprobs", "With --json: of the k most probable tokens too."),
    ] = None,
    truncate_prompt_tokens: Annotated[
        int | None,
        _sampling(
            "--truncate-prompt-tokens", "Keep a prompt's last k tokens; -1: what fits."
        ),
    ] = None,
    backend: options.Backend = None,
    dtype: options.Dtype = "auto",
    max_model_len: Annotated[
        int | None,
        _engine("--max-model-len", "Prompt and new tokens together.", "TOKENS"),
    ] = None,
    max_num_seqs: Annotated[
        int | None, _engine("--max-num-seqs", "Requests worked on at a time.", "COUNT")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None,
        _engine("--max-num-batched-tokens", "Prompt tokens in one step.", "TOKENS"),
    ] = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    option: Annotated[
        list[str] | None,
        _engine("--option", "Option that only this backend knows.", "KEY=VALUE"),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Generate text for prompts from the arguments, a file or standard input.

    One prompt's text is written as it comes; several are written in their order.

    Without any sampling option the model's own defaults apply (its
    generation_config). Those that are given are put on top of these defaults.
    """
    with reported(context, debug=debug):
        given = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "seed": seed,
            "max_tokens": max_tokens,
            "min_tokens": min_tokens,
            "stop": stop or None,
            "n": n,
            "ignore_eos": ignore_eos or None,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "logprobs": logprobs,
            "truncate_prompt_tokens": truncate_prompt_tokens,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if system is not None and not chat:
            raise ConfigError("--system is for chats. Add --chat.")
        if logprobs is not None and not as_json:
            raise ConfigError("--logprobs are written as JSON only. Add --json.")
        _check_sampling(given)
        engine_options: dict[str, Any] = {
            "backend": backend or "auto",
            "tokenizer": tokenizer,
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "trust_remote_code": trust_remote_code,
            "backend_options": options.parse_key_values(option or ()),
        }
        source = Source.choose(prompts or (), file, input_format)
        with source.open() as found:
            head = list(itertools.islice(found, 2))
            if not head:
                raise ConfigError(f"There is no prompt in {source.name}.")
            with unillm.Generator(model, **engine_options) as generator:
                requests = Requests(
                    generator=generator,
                    params=_params(generator, given),
                    chat=chat,
                    system=system,
                )
                if len(head) == 1 and not as_json and given.get("n", 1) == 1:
                    _write_one(requests, head[0])
                    return
                results = requests.results(itertools.chain(head, found))
                if len(head) > 1 and is_terminal(sys.stderr):
                    results = _with_progress(results, source.total)
                code = _write_all(results, as_json=as_json)
        raise typer.Exit(code)


def _check_sampling(given: dict[str, Any]) -> None:
    """Refuse what is impossible before a model is loaded for it.

    The model's defaults are not known yet, so `max_tokens` is left open.
    """
    with warnings.catch_warnings():  # the params that are used give them again
        warnings.simplefilter("ignore")
        unillm.SamplingParams(**{"max_tokens": None, **given})


def _params(generator: Generator, given: dict[str, Any]) -> SamplingParams | None:
    if not given:
        return None
    return attrs.evolve(generator.get_default_sampling_params(), **given)


def _write_one(requests: Requests, prompt: CliPrompt) -> None:
    """Stream the text of the only prompt. Its error is the command's."""
    output = writing.write_stream(requests.start(prompt))
    writing.write_notes(output)
    if output.finish_reason == "length" and is_terminal(sys.stderr):
        count = len(output.token_ids)
        note(f"it ended after {count} tokens; --max-tokens allows more.")


def _write_all(results: Iterator[Result], *, as_json: bool) -> ExitCode:
    """Write every result; several prompts that fail alike fail as one would."""
    codes = set()
    for result in results:
        if as_json:
            writing.write_json(writing.as_json(result))
        else:
            writing.write_texts(result)
        codes.add(ExitCode.OK if result.error is None else exit_code_of(result.error))
    return codes.pop() if len(codes) == 1 else ExitCode.REQUESTS_FAILED


def _with_progress(results: Iterator[Result], total: int | None) -> Iterator[Result]:
    """Show a bar on standard error that steps aside for what is written."""
    from tqdm import tqdm

    with tqdm(results, total=total, unit=" prompts", dynamic_ncols=True) as bar:
        for result in bar:
            with tqdm.external_write_mode(file=sys.stdout):
                yield result
