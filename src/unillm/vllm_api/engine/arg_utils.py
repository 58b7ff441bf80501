# SPDX-License-Identifier: Apache-2.0

"""``vllm.engine.arg_utils``: `EngineArgs`, with the command line that vLLM gives it."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from typing import Any

from typing_extensions import Self

from ..engine_args import recorded_defaults

_DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
_SHORT = {
    "pipeline_parallel_size": "-pp",
    "quantization": "-q",
    "tensor_parallel_size": "-tp",
}

_DEFAULTS = {
    "model": _DEFAULT_MODEL,
    **{k: v for k, v in recorded_defaults().items() if not k.startswith("_")},
}


def _field(default: Any) -> Any:
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default))
    return dataclasses.field(default=default)


_Fields: Any = dataclasses.make_dataclass(
    "_Fields", [(name, Any, _field(default)) for name, default in _DEFAULTS.items()]
)


class EngineArgs(_Fields):  # type: ignore[misc]
    """The arguments of `LLM`, each with its default in vLLM 0.32.

    ``LLM(**vars(args))``, ``LLM(**dataclasses.asdict(args))`` and
    ``LLM.from_engine_args(args)`` create the model. `LLM` checks the values.
    """

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add an option for each argument, ``--max-model-len`` for `max_model_len`.

        A value whose type the default does not show is read as JSON if it is JSON, and
        as a text if not.
        """
        for name, default in _DEFAULTS.items():
            flags = [f"--{name.replace('_', '-')}"]
            flags += [_SHORT[name]] if name in _SHORT else []
            if isinstance(default, bool):
                kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
            elif isinstance(default, (int, float, str)):
                kind = {"type": type(default)}
            else:
                kind = {"type": _value}
            parser.add_argument(*flags, default=copy.deepcopy(default), **kind)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """Return the arguments that a parser has read; others keep their defaults."""
        given = {name: value for name, value in vars(args).items() if name in _DEFAULTS}
        return cls(**given)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
