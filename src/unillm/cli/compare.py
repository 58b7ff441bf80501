# SPDX-License-Identifier: Apache-2.0

"""``unillm compare``: the same prompts on two backends, side by side."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..errors import ConfigError
from . import options
from .exit_codes import ExitCode
from .prompts import CliPrompt, InputFormat, Source
from .reporting import is_terminal, note, reported
from .side_by_side import SideBySide, as_json_prompt, label
from .writing import write_json

if TYPE_CHECKING:
    from ..comparison.sides import Side

SIDES = "Sides (given once: both; given twice: the first and the second)"
"""Panel of the help for what may differ."""

PROMPTS = (
    "Count from 3 to 9:",
    "Count from 12 to 31:",
    "Add 17 and 25:",
    "Spell the word apple:",
    "List the days from Tuesday:",
    "Repeat: one two three",
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "Water boils at",
    "The three primary colours are",
    "def fibonacci(n):",
    "Translate to French: Good morning, my friends.",
)
"""What is compared where no prompt is given: some that the bundled model was taught,
some that any model goes on with."""

_SIDE_OPTION = re.compile(r"([12]):(.*)", re.DOTALL)


def _side(flag: str, help_text: str, metavar: str = "NAME") -> Any:
    return typer.Option(
        flag,
        help=help_text,
        metavar=metavar,
        rich_help_panel=SIDES,
        show_default=False,
    )


def compare(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="Directory, hub id, or the bundled unillm/tiny."),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts to continue. Without any, and without --file, a dozen that are "
            "built in.",
            show_default=False,
        ),
    ] = None,
    *,
    backend: Annotated[
        list[str] | None, _side("--backend", "The engine of a side.")
    ] = None,
    python: Annotated[
        list[str] | None,
        _side(
            "--python",
            "Interpreter of a side, whose environment has unillm and the engine; - is "
            "this one.",
            "PATH",
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None, _side("--dtype", "auto, float32, bfloat16 or float16.")
    ] = None,
    max_num_seqs: Annotated[
        list[int] | None,
        _side("--max-num-seqs", "Requests worked on at a time.", "COUNT"),
    ] = None,
    option: Annotated[
        list[str] | None,
        _side(
            "--option",
            "Option that only the backend knows, for both sides, or for one as "
            "1:KEY=VALUE or 2:KEY=VALUE.",
            "KEY=VALUE",
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Read the prompts from a file, - for standard input: one a line; or "
            "JSON lines with prompt, prompt_token_ids or messages.",
        ),
    ] = None,
    input_format: Annotated[
        InputFormat,
        typer.Option(
            "--input-format",
            help="How a file is read; auto means jsonl if its name ends so.",
        ),
    ] = InputFormat.AUTO,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="New tokens at most.", min=1)
    ] = 64,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            metavar="NATS",
            min=0.0,
            help="A divergence counts as agreement where, on both sides, the log-"
            "probabilities of the two tokens differ by no more.",
        ),
    ] = 0.0,
    max_model_len: options.MaxModelLen = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Answer the same prompts greedily on two backends and say where they part.

    Each side runs in a process of its own, one after the other, with --python in an
    environment of its own. The exit code is 0 if they agree and 6 if they do not.
    """
    with reported(context, debug=debug):
        from ..comparison.sides import ask
        from ..comparison.worker import Task

        sides = _sides(
            backend=backend or [],
            python=python or [],
            dtype=dtype or [],
            max_num_seqs=max_num_seqs or [],
            option=option or [],
        )
        asked = _read_prompts(prompts or [], file, input_format)
        task = Task(
            model=model,
            options={
                "max_model_len": max_model_len,
                "tokenizer": tokenizer,
                "trust_remote_code": trust_remote_code,
            },
            max_tokens=max_tokens,
        )
        reports = []
        for number, side in enumerate(sides, 1):
            if is_terminal(sys.stderr):
                note(f"side {number}: {label(side)} …")
            shown = attrs.evolve(side, show_log=debug)
            reports.append(ask(shown, task, [as_json_prompt(each) for each in asked]))
        found = SideBySide(
            task=task,
            tolerance=tolerance,
            sides=sides,
            reports=(reports[0], reports[1]),
            prompts=asked,
        )
        if as_json:
            write_json(found.as_json())
        else:
            found.write()
    raise typer.Exit(ExitCode.OK if found.agree else ExitCode.DISAGREE)


# ------------------------------------------------------------------- what was asked


def _sides(*, option: Sequence[str], **given: Sequence[Any]) -> tuple[Side, Side]:
    """Make the two sides of the options that may differ.

    Raises:
        ConfigError: An option is given three times, or nothing tells the sides apart.
    """
    from ..comparison.sides import Side

    for name, values in given.items():
        if len(values) > 2:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} is given {len(values)} times. Give it once for both sides, "
                "or twice, for the first and for the second."
            )
    own: tuple[list[str], list[str]] = ([], [])
    for pair in option:
        match = _SIDE_OPTION.fullmatch(pair)
        for number in (0, 1):
            if match is None or int(match[1]) == number + 1:
                own[number].append(pair if match is None else match[2])
    if own[0] == own[1] and not any(len(values) == 2 for values in given.values()):
        raise ConfigError(
            "Both sides are the same. Give --backend twice, for the first and for the "
            "second, or another option that may differ."
        )

    def side(number: int) -> Side:
        values = {
            name: each[number % len(each)] for name, each in given.items() if each
        }
        python = values.pop("python", "-")
        options_of_side = {
            **values,
            "backend_options": options.parse_key_values(own[number]),
        }
        if python == "-":
            return Side(options=options_of_side)
        return Side(options=options_of_side, python=python)

    return side(0), side(1)


def _read_prompts(
    arguments: Sequence[str], file: str | None, input_format: InputFormat
) -> list[CliPrompt]:
    """Return all prompts; one that makes no sense ends the command.

    Raises:
        ConfigError: There is no prompt, or the file cannot be read.
        InvalidPromptError: A line makes no sense.
    """
    if not arguments and file is None:
        arguments = PROMPTS
    source = Source.choose(arguments, file, input_format)
    with source.open() as found:
        prompts = list(found)
    if not prompts:
        raise ConfigError(f"There is no prompt in {source.name}.")
    for prompt in prompts:
        if prompt.error is not None:
            raise ConfigError(f"{prompt.place}: {prompt.error}")
    return prompts
