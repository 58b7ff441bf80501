# SPDX-License-Identifier: Apache-2.0

"""``unillm compare``: the same prompts on two backends, side by side."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from ..errors import ConfigError
from ..phase_bars import shown_phases
from . import options
from .commands import command
from .exit_codes import ExitCode
from .prompts import CliPrompt, InputFormat, file_option, format_option, open_prompts
from .reporting import is_terminal, note
from .side_by_side import SideBySide, label
from .sides import check_side, pairs_by_side
from .writing import write_json

if TYPE_CHECKING:
    from ..comparison.sides import Side

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
"""Built-in prompts: tasks of the bundled model, and texts that any model continues."""

_side = functools.partial(
    options.Option,
    panel="Sides (an option given once is for both; given twice, for the first and the "
    "second)",
)


class Sides(TypedDict, total=False):
    """Options that may differ between the sides."""

    backend: Annotated[list[str], _side("Engine of a side.", "NAME")]
    python: Annotated[
        list[str],
        _side(f"{options.PYTHON} - is this one.", "PATH"),
    ]
    dtype: Annotated[list[str], _side(options.DTYPE, "NAME")]
    max_num_seqs: Annotated[list[int], _side("Requests in one step.", "COUNT")]
    option: Annotated[
        list[str],
        _side(
            "Option that only the backend has, for both sides, or for one side as "
            "1:KEY=VALUE or 2:KEY=VALUE.",
            "KEY=VALUE",
        ),
    ]


@command
def compare(
    model: options.ModelArgument,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts to continue. Without any, and without --file, a dozen built-in "
            "ones.",
            show_default=False,
        ),
    ] = None,
    *,
    sides: Sides,
    file: Annotated[str | None, file_option()] = None,
    input_format: Annotated[InputFormat, format_option()] = InputFormat.AUTO,
    max_tokens: Annotated[
        int,
        typer.Option(help="New tokens of each answer.", min=1),
    ] = 64,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="NATS",
            min=0.0,
            help="Count a divergence as agreement if, on both sides, the "
            "log-probabilities of the two tokens differ by no more.",
        ),
    ] = 0.0,
    engine: Annotated[
        options.Engine,
        options.Without(
            "backend",
            "python",
            "dtype",
            "max_num_seqs",
            "max_num_batched_tokens",
            "backend_options",
        ),
    ],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Answer the same prompts greedily on two backends and show where they diverge.

    Each side runs in a process of its own, one after the other, with --python in an
    environment of its own. The exit code is 0 if they agree and 6 if they do not.
    """
    from ..comparison.sides import ask
    from ..comparison.verdict import compare as compare_answers
    from ..comparison.worker import Task

    both = _both(sides)
    asked = _read_prompts(prompts or [], file, input_format)
    task = Task(model=model, options=engine, max_tokens=max_tokens)
    for side in both:
        check_side(model, side.python, {**task.options, **side.options})
    reports = []
    for number, side in enumerate(both, 1):
        if is_terminal(sys.stderr):
            note(f"side {number}: {label(side.options)} …")
        questions = [each.as_input() for each in asked]
        with shown_phases():
            reports.append(ask(side, task, questions, show_log=debug))
    answers = zip(*(report.answers for report in reports), strict=True)
    found = SideBySide(
        task=task,
        tolerance=tolerance,
        sides=both,
        reports=reports,
        prompts=asked,
        comparisons=[compare_answers(*each, tolerance=tolerance) for each in answers],
    )
    if as_json:
        write_json(found.as_json())
    else:
        found.write()
    raise typer.Exit(ExitCode.OK if found.agree else ExitCode.DISAGREE)


def _both(given: Mapping[str, Any]) -> tuple[Side, Side]:
    """Return the two sides that the options describe.

    Raises:
        ConfigError: An option is given three times, or both sides are the same.
    """
    from ..comparison.sides import Side
    from ..process.environments import find_python

    values = dict(given)
    pairs = pairs_by_side(values.pop("option", []), 2)
    for name, each in values.items():
        if len(each) > 2:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} is given {len(each)} times. Give it once for both sides, or "
                "twice, for the first and for the second."
            )
    if pairs[0] == pairs[1] and not any(len(each) == 2 for each in values.values()):
        raise ConfigError(
            "Both sides are the same. Give --backend twice, for the first and for the "
            "second, or another option that may differ."
        )

    def side(number: int) -> Side:
        own = {name: each[number % len(each)] for name, each in values.items()}
        python = own.pop("python", "-")
        own["backend_options"] = options.parse_key_values(pairs[number])
        python = sys.executable if python == "-" else find_python(python)
        return Side(options=own, python=python)

    return side(0), side(1)


def _read_prompts(
    arguments: Sequence[str], file: str | None, input_format: InputFormat
) -> list[CliPrompt]:
    """Return all prompts.

    Raises:
        ConfigError: There is no prompt, or a line has no valid prompt.
    """
    if not arguments and file is None:
        arguments = PROMPTS
    with open_prompts(arguments, file, input_format) as found:
        prompts = list(found)
    for prompt in prompts:
        if prompt.error is not None:
            raise ConfigError(f"{prompt.place}: {prompt.error}")
        if prompt.own:
            raise ConfigError(
                f"{prompt.place} has {', '.join(prompt.own)}, and the sides answer "
                "greedily, with the options of the command. Leave them out."
            )
    return prompts
