# SPDX-License-Identifier: Apache-2.0

"""vLLM's ``structured_outputs_config`` on another engine.

There the core compiles the structures of all requests, so the configuration is a
default for their params.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..params import SamplingParams

ARGUMENT = "structured_outputs_config"

HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "backend": ("auto",),
    "disable_additional_properties": (False,),
    "disable_any_whitespace": (False,),
    "disable_fallback": (False,),
    "enable_in_reasoning": (False,),
    "reasoning_parser": (None, ""),
    "reasoning_parser_plugin": (None, ""),
}
"""Values of its keys that request what every backend does."""

_ELSEWHERE: Mapping[str, tuple[Any, ...]] = {
    "backend": ("guidance", "lm-format-enforcer", "outlines", "xgrammar"),
    "disable_additional_properties": (True,),
    "disable_any_whitespace": (True,),
}
"""Values that other engines honour besides: a compiler of the same structures, whose
work the core's compiler does, and options of JSON."""

_SPACES_OF_OUTLINES = "[ ]?"
"""Its JSON has no line ends."""

_OF_JSON = ("disable_additional_properties", "disable_any_whitespace")


def options_of_json(config: Any) -> dict[str, Any] | None:
    """Return the fields of `StructuredOutputs` that a configuration sets.

    Args:
        config: A dict or vLLM's own object.

    Returns:
        `None` if it asks for something that only vLLM has.
    """
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    if not values and config != {}:
        return None
    for name, value in values.items():
        if value not in HARMLESS.get(name, ()) + _ELSEWHERE.get(name, ()):
            return None
    options: dict[str, Any] = {name: True for name in _OF_JSON if values.get(name)}
    if values.get("backend") == "outlines":
        options["whitespace_pattern"] = _SPACES_OF_OUTLINES
    return options


def with_options(params: Any, options: Mapping[str, Any]) -> Any:
    """Return params whose JSON has these options, also in a list; others unchanged.

    An option that a request sets itself stays.
    """
    if not options:
        return params
    if isinstance(params, (list, tuple)):
        return [with_options(each, options) for each in params]
    wanted = params.structured_outputs if isinstance(params, SamplingParams) else None
    if wanted is None or wanted.kind not in ("json", "json_object"):
        return params
    unset = {name: each for name, each in options.items() if not getattr(wanted, name)}
    changed = attrs.evolve(wanted, **unset)
    return attrs.evolve(params, structured_outputs=changed)
