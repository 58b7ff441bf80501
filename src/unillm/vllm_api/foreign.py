# SPDX-License-Identifier: Apache-2.0

"""Objects of an installed vLLM, as the values of unillm that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..lora import LoRARequest
from ..params import SamplingParams

T = TypeVar("T")

_INTERNAL = frozenset({"output_kind", "output_text_buffer_length"})
"""Fields of vLLM's structs that a program does not decide."""


def taken_params(given: Any) -> Any:
    """Return params of vLLM's as `SamplingParams`, also in a list; others unchanged."""
    return _each(given, "SamplingParams", _as_params)


def _as_params(struct: Any) -> SamplingParams:
    stated = _stated(struct)
    if "prompt_logprobs" in stated:  # vLLM sets this with it, for whole prompts
        stated.pop("skip_reading_prefix_cache", None)
    return SamplingParams(**stated)


def taken_adapters(given: Any) -> Any:
    """Return an adapter of vLLM's as a `LoRARequest`, also in a list."""
    return _each(given, "LoRARequest", lambda one: LoRARequest(**_stated(one)))


def _each(given: Any, name: str, convert: Callable[[Any], T]) -> Any:
    if isinstance(given, (list, tuple)):
        return [_each(one, name, convert) for one in given]
    return convert(given) if _is_vllms(given, name) else given


def _is_vllms(value: Any, name: str) -> bool:
    kind = type(value)
    return kind.__name__ == name and kind.__module__.partition(".")[0] == "vllm"


def _stated(struct: Any) -> dict[str, Any]:
    """Return the fields of a struct of msgspec that differ from their defaults."""
    import msgspec

    found = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        internal = field.name.startswith("_") or field.name in _INTERNAL
        if not internal and not _equal(value, field.default):
            found[field.name] = _plain(value)
    return found


def _equal(value: Any, default: Any) -> bool:
    try:
        return value is default or bool(value == default)
    except ValueError:  # an array
        return False


def _plain(value: Any) -> Any:
    """Return a constraint of vLLM's as a dict of what it states."""
    if not _is_vllms(value, "StructuredOutputsParams"):
        return value
    fields: Mapping[str, Any] = {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if field.init
    }
    return {name: each for name, each in fields.items() if each is not None}
