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
    "backend": ("guidance", "xgrammar"),
    "disable_any_whitespace": (True,),
}
"""Values that other engines honour besides: a compiler of the same structures, whose
work the core's compiler does, and JSON without spaces."""


def compact_json(config: Any) -> bool | None:
    """Return whether a configuration asks for JSON without spaces between its parts.

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
    return bool(values.get("disable_any_whitespace"))


def compacted(params: Any) -> Any:
    """Return params whose JSON has no spaces, also in a list; others unchanged."""
    if isinstance(params, (list, tuple)):
        return [compacted(each) for each in params]
    wanted = params.structured_outputs if isinstance(params, SamplingParams) else None
    if wanted is None or wanted.kind not in ("json", "json_object"):
        return params
    compact = attrs.evolve(wanted, disable_any_whitespace=True)
    return attrs.evolve(params, structured_outputs=compact)
