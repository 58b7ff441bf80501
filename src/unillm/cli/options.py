# SPDX-License-Identifier: Apache-2.0

"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

import unillm

from ..errors import ConfigError

if TYPE_CHECKING:
    from .. import Generator, SamplingParams

ENGINE = "Engine"
"""Panel of the help for load-time options."""

SAMPLING = "Sampling (given ones change the model's own defaults, the rest stay)"
"""Panel of the help for the fields of `SamplingParams`."""


def sampling(flag: str, help_text: str, metavar: str | None = None) -> Any:
    """Return an option that is a field of `SamplingParams`."""
    return typer.Option(
        flag,
        help=help_text,
        metavar=metavar,
        rich_help_panel=SAMPLING,
        show_default=False,
    )


def _engine(flag: str, help_text: str, metavar: str) -> Any:
    return typer.Option(flag, help=help_text, metavar=metavar, rich_help_panel=ENGINE)


# ------------------------------------------------------------------------ the options

Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and the log on stderr.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Directory, hub id, or the bundled unillm/tiny."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        show_default=False,
        help="The engine. Default: the environment's UNILLM_BACKEND, else the best "
        "that can run here. `unillm backends` shows them.",
        rich_help_panel=ENGINE,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="auto (the checkpoint's), float32, bfloat16 or float16.",
        rich_help_panel=ENGINE,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="Directory or hub id of the tokenizer, if it is not the model's own.",
        rich_help_panel=ENGINE,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that the checkpoint brings. Read it first.",
        rich_help_panel=ENGINE,
    ),
]
MaxModelLen = Annotated[
    int | None,
    _engine("--max-model-len", "Prompt and new tokens together.", "TOKENS"),
]
MaxNumSeqs = Annotated[
    int | None, _engine("--max-num-seqs", "Requests worked on at a time.", "COUNT")
]
MaxNumBatchedTokens = Annotated[
    int | None,
    _engine("--max-num-batched-tokens", "Prompt tokens in one step.", "TOKENS"),
]
Quantization = Annotated[
    str | None,
    _engine("--quantization", "How weights are stored. Default: as they are.", "NAME"),
]
TensorParallelSize = Annotated[
    int | None,
    _engine("--tensor-parallel-size", "Devices that share each layer.", "COUNT"),
]
BackendOption = Annotated[
    list[str] | None,
    _engine("--option", "Option that only this backend knows.", "KEY=VALUE"),
]
Temperature = Annotated[
    float | None, sampling("--temperature", "0 is greedy; up to 2.")
]
TopP = Annotated[
    float | None,
    sampling("--top-p", "Keep the tokens that have this probability together."),
]
TopK = Annotated[
    int | None, sampling("--top-k", "Keep the k most probable tokens; 0: all.")
]
MinP = Annotated[
    float | None,
    sampling("--min-p", "Drop tokens under this share of the most probable one."),
]
Seed = Annotated[
    int | None, sampling("--seed", "Makes each prompt's answer reproducible.")
]
MaxTokens = Annotated[int | None, sampling("--max-tokens", "New tokens at most.")]
MinTokens = Annotated[int | None, sampling("--min-tokens", "Nothing ends it before.")]
Stop = Annotated[
    list[str] | None,
    sampling("--stop", "Text that ends it; may be given again.", "TEXT"),
]
IgnoreEos = Annotated[bool, sampling("--ignore-eos", "Go on after the model's end.")]
RepetitionPenalty = Annotated[
    float | None,
    sampling("--repetition-penalty", "Over 1 discourages what was there."),
]
PresencePenalty = Annotated[
    float | None,
    sampling("--presence-penalty", "Off the logit of what was generated."),
]
FrequencyPenalty = Annotated[
    float | None, sampling("--frequency-penalty", "The same, for each time.")
]
TruncatePromptTokens = Annotated[
    int | None,
    sampling(
        "--truncate-prompt-tokens", "Keep a prompt's last k tokens; -1: what fits."
    ),
]


# ------------------------------------------------------------------ what becomes of it


def given_ones(**fields: Any) -> dict[str, Any]:
    """Return the fields of `SamplingParams` that the command line gave."""
    return {name: value for name, value in fields.items() if value is not None}


def check_sampling(given: Mapping[str, Any]) -> None:
    """Refuse what is impossible before a model is loaded for it.

    The model's defaults are not known yet, so `max_tokens` is left open.
    """
    with warnings.catch_warnings():  # the params that are used give them again
        warnings.simplefilter("ignore")
        unillm.SamplingParams(**{"max_tokens": None, **given})


def params_for(generator: Generator, given: Mapping[str, Any]) -> SamplingParams | None:
    """Put what was given on top of the model's defaults; `None` for these alone."""
    if not given:
        return None
    return attrs.evolve(generator.get_default_sampling_params(), **given)


def parse_key_values(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs: a value that is JSON is that value, else text.

    Raises:
        ConfigError: A pair has no ``=`` or no key, or a key comes twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option takes KEY=VALUE, got {pair!r}.")
        if key in options:
            raise ConfigError(f"--option {key} is given twice. Give it once.")
        options[key] = as_value(value)
    return options


def as_value(text: str) -> Any:
    """Read a value: JSON if it is, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
