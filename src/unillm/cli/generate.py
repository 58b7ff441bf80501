# SPDX-License-Identifier: Apache-2.0

"""``unillm generate``: prompts in, text out."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

import unillm

from ..errors import ConfigError
from . import options, writing
from .exit_codes import ExitCode, exit_code_of
from .prompts import CliPrompt, InputFormat, Source
from .reporting import is_terminal, note, reported
from .requests import Requests, Result

INPUT = "Prompts"


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
    model: options.Model = "unillm/tiny",
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
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    min_tokens: options.MinTokens = None,
    stop: options.Stop = None,
    n: Annotated[
        int | None, options.sampling("--n", "Completions for each prompt.")
    ] = None,
    ignore_eos: options.IgnoreEos = False,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    logprobs: Annotated[
        int | None,
        options.sampling(
            "--logprobs", "With --json: of the k most probable tokens too."
        ),
    ] = None,
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
    """Generate text for prompts from the arguments, a file or standard input.

    One prompt's text is written as it comes; several are written in their order.

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
            n=n,
            ignore_eos=ignore_eos or None,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            logprobs=logprobs,
            truncate_prompt_tokens=truncate_prompt_tokens,
        )
        if system is not None and not chat:
            raise ConfigError("--system is for chats. Add --chat.")
        if logprobs is not None and not as_json:
            raise ConfigError("--logprobs are written as JSON only. Add --json.")
        options.check_sampling(given)
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
                    params=options.params_for(generator, given),
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
