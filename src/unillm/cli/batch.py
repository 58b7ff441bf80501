# SPDX-License-Identifier: Apache-2.0

"""``unillm batch``: files of requests, answered line by line."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

import unillm

from ..distributions import install
from ..errors import BatchError, ConfigError
from . import options, serving_options
from .commands import command
from .exit_codes import ExitCode
from .options import Option, Without
from .reporting import is_terminal, note
from .writing import write, write_json

if TYPE_CHECKING:
    from ..jobs import BatchReport, Worker
    from ..jobs.dry_run import DryRun

_input = functools.partial(Option, panel="Input")
_output = functools.partial(Option, panel="Output")
_job = functools.partial(Option, panel="Job")


def _read_names(texts: list[str]) -> list[str]:
    names = [name.strip() for text in texts for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"--columns takes names with commas between, got {texts}.")
    return names


class Rows(TypedDict, total=False):
    """Options for rows of an input; arguments of `run_batch`."""

    prompt_template: Annotated[
        str,
        _input(
            "Jinja template over the columns of a row, which makes its prompt: a file, "
            "or its text.",
            "TEXT",
        ),
    ]
    chat: Annotated[
        bool,
        _input(
            "Send the prompt of a row as a user message, in the model's chat template."
        ),
    ]
    system: Annotated[
        str, _input("With --chat: system message before each prompt.", "TEXT")
    ]
    columns: Annotated[
        list[str],
        _input(
            "Columns of rows to use and to keep; others are left out. Default: all.",
            "NAME,NAME",
            read=_read_names,
        ),
    ]


class Output(TypedDict, total=False):
    """Options for the output; arguments of `run_batch`."""

    output_schema: Annotated[
        str,
        _output(
            "JSON schema of the texts of lines that ask for no structure: a file, or "
            "its text.",
            "JSON",
        ),
    ]
    any_order: Annotated[
        bool, _output("Write lines of JSON in the order in which they end.")
    ]


class Going(TypedDict, total=False):
    """Options for how a job goes; arguments of `run_batch`."""

    deduplicate: Annotated[bool, _job("Answer equal lines with temperature 0 once.")]

    restart: Annotated[
        bool, _job("Begin anew, and delete what an earlier job has left.")
    ]
    retry_failed: Annotated[
        bool, _job("Answer the lines again that failed in an earlier run.")
    ]


@command
def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Files, patterns such as 'data/*.jsonl', or - for standard input.",
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="File to make.")
    ],
    model: options.Model = "unillm/tiny",
    status: Annotated[
        bool,
        typer.Option(
            "--status",
            help="Say how far the job of the output is, and exit.",
            rich_help_panel="Job",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Count lines and tokens, estimate the time by a sample, and exit.",
            rich_help_panel="Job",
        ),
    ] = False,
    as_json: options.AsJson = False,
    rows: Rows,
    results: Output,
    going: Going,
    sampling: options.Sampling,
    answers: Annotated[serving_options.Answers, Without("enable_force_include_usage")],
    clustered: serving_options.Clustered,
    engine: Annotated[options.Engine, Without("seed")],
) -> None:
    """Answer every line of files of requests, in a file of the same form.

    Lines are those of OpenAI's batch format, or rows with a prompt or messages. What a
    line holds is what unillm serve takes, and its answer is what unillm serve answers.
    A sampling option counts for the lines that lack its field.

    The same command goes on where an earlier run was interrupted, by whatever.
    """
    if status:
        _write_status(Path(output), as_json=as_json)
        return
    if not inputs:
        raise ConfigError("There is no input. Give a file, a pattern, or -.")
    options.check_sampling(sampling)
    try:
        from ..jobs.arguments import Arguments
        from ..jobs.dry_run import dry_run as count
        from ..jobs.worker import LocalWorker
        from ..protocol.endpoints import AnswerSettings
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"unillm batch needs {error.name}. Install it: {install('batch')}"
        ) from error
    given = {"params": sampling, **_texts(rows, results), **going}
    loading = {**_answers(answers, AnswerSettings), **engine}
    if dry_run:
        arguments = Arguments(inputs=inputs, output=output, **given)
        found = count(arguments, LocalWorker(model, **loading))
        _write_dry_run(found, as_json=as_json)
        return
    with _noted(Path(output)):
        report = unillm.run_batch(
            inputs,
            output,
            _on_ray(model, clustered, loading) if clustered else model,
            use_tqdm=is_terminal(sys.stderr),
            **given,
            **({} if clustered else loading),
        )
    _write_report(report, as_json=as_json)
    if report.num_failed:
        raise typer.Exit(ExitCode.REQUESTS_FAILED)


def _texts(rows: Rows, results: Output) -> dict[str, Any]:
    """Return the options of rows and output, with the texts of files read."""
    given: dict[str, Any] = {**rows, **results}
    if "prompt_template" in given:
        text = options.read_text(given["prompt_template"], "--prompt-template")
        given["prompt_template"] = text
    if "output_schema" in given:
        text = options.read_text(given["output_schema"], "--output-schema")
        given["output_schema"] = options.parse_object([text])
    return given


def _answers(given: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    answers = dict(given)
    names = {each: answers.pop(each) for each in _NAMES if each in answers}
    return {**names, "settings": settings(**answers)}


_NAMES = ("served_model_name", "lora_modules")


def _on_ray(
    model: str, clustered: serving_options.Clustered, given: Mapping[str, Any]
) -> Worker:
    least, most = clustered.get("replicas", (1, 1))
    if least != most:
        raise ConfigError(
            f"A batch job has a fixed number of replicas, got {least}:{most}."
        )
    worker: Worker = serving_options.import_ray(clustered).RayWorker(
        model,
        address=clustered["ray"],
        num_replicas=least,
        resources=clustered.get("resources"),
        **given,
    )
    return worker


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM. Code between here and the command must not take it for an error."""


@contextlib.contextmanager
def _noted(output: Path) -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, and say how far an interrupted job is."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        from ..jobs.status import job_status

        with contextlib.suppress(BatchError):
            found = job_status(output)
            note(
                f"{found.num_done} of {found.num_lines} lines are finished. Run the "
                "same command again: it goes on from there."
            )
        if isinstance(interrupt, _TerminatedError):
            raise typer.Exit(ExitCode.TERMINATED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_report(report: BatchReport, *, as_json: bool) -> None:
    if as_json:
        write_json(report)
        return
    done = f"{report.num_lines} lines in {report.output}"
    if report.num_resumed:
        done += f", {report.num_resumed} of them finished earlier"
    write(f"{done}.\n")
    if report.num_generated_tokens:
        rate = report.num_generated_tokens / report.seconds
        write(
            f"{report.num_prompt_tokens} prompt tokens and "
            f"{report.num_generated_tokens} new ones in {report.seconds:.1f} s, "
            f"{rate:.0f} new tokens/s.\n"
        )
    if report.num_failed:
        write(
            f"{report.num_failed} lines failed. Their errors are in the output, and "
            f"the lines themselves in {report.failed}.\n"
        )


def _write_dry_run(found: DryRun, *, as_json: bool) -> None:
    if as_json:
        write_json(found)
        return
    write(
        f"{found.num_lines} lines, {found.num_prompt_tokens} prompt tokens. The "
        f"longest prompt has {found.longest_prompt} tokens ({found.longest_place}); "
        f"{found.max_prompt_tokens} fit.\n"
    )
    if found.num_refused:
        write(f"{found.num_refused} lines would fail:\n")
        for each in found.refused:
            write(f"  {each}\n")
    if found.num_sampled:
        write(
            f"{found.num_sampled} lines took {found.sample_seconds:.1f} s, so all take "
            f"about {dt.timedelta(seconds=round(found.estimated_seconds))} and give "
            f"about {found.estimated_new_tokens} tokens.\n"
        )


def _write_status(output: Path, *, as_json: bool) -> None:
    from ..jobs.status import job_status

    found = job_status(output)
    if as_json:
        write_json(found)
        return
    share = 100 * found.num_done / found.num_lines
    begun = dt.datetime.fromtimestamp(found.created).astimezone()
    state = "finished" if found.finished else found.running or "interrupted"
    write(
        f"{found.num_done} of {found.num_lines} lines ({share:.1f} %), "
        f"{found.num_failed} failed; begun {begun:%Y-%m-%d %H:%M}; {state}.\n"
    )
