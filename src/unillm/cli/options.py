# SPDX-License-Identifier: Apache-2.0

"""Options that several commands share, and the reading of ``KEY=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from ..errors import ConfigError

ENGINE = "Engine"
"""Panel of the help for load-time options."""

Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and the log on stderr.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
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
        options[key] = _as_value(value)
    return options


def _as_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
