# SPDX-License-Identifier: Apache-2.0

"""The context of a model: how many positions it was made for.

`inspect_model`, `plan_engine`, the embedded engine and the plugins all read it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import ModelLoadError
from .checkpoint import read_config
from .declared import POSITION_NAMES, text_part
from .known_configs import describe_config
from .sizes import first_of

UNBOUNDED = 2048
"""Positions of a model that names no bound: Bloom was trained on so many."""


def model_positions(path: Path, *, extended: bool = False) -> int:
    """Return the positions of the model in a directory.

    Raises:
        ModelError: There is no model, or transformers refuses its ``config.json`` and
            that names no context.
    """
    try:
        return positions_of(describe_config(path), extended=extended)
    except ModelLoadError as error:
        declared = read_config(path)
        config = SimpleNamespace(**text_part(declared))
        if positions := _positions(config, extended=extended):
            return positions
        raise ModelLoadError(
            f"{error} config.json names no context either: none of "
            f"{', '.join(POSITION_NAMES)} is there."
        ) from error


def positions_of(config: Any, *, extended: bool = False) -> int:
    """Return the positions that a model with a transformers configuration was made for.

    Args:
        config: Configuration of the model.
        extended: Count the positions that longrope reaches with its long factors. By
            default, as in vLLM, the context ends where longrope changes its factors.
    """
    text_config = config.get_text_config(decoder=True)
    return _positions(text_config, extended=extended) or UNBOUNDED


def _positions(config: Any, *, extended: bool) -> int:
    if not extended and (short := _short_context(config)):
        return short
    return int(first_of(config, *POSITION_NAMES) * _stretch(config))


def _short_context(config: Any) -> int:
    """Return the context in which longrope keeps its factors; 0 without longrope.

    Beyond it, the longest row of a step would choose the factors of all rows, and the
    cache of a row would have to be computed anew when the row gets there.
    """
    for rope in _ropes(config):
        if _type_of(rope) == "longrope":
            name = "original_max_position_embeddings"
            return first_of(config, name) or first_of(SimpleNamespace(**rope), name)
    return 0


def _stretch(config: Any) -> float:
    """Return the factor by which linear and dynamic scaling extend the context.

    A config with another type, such as yarn or llama3, declares the context that it
    reaches with its factor. So do those of Gemma 3, whatever the type.

    References:
        ``_get_and_verify_max_len``, vLLM 0.32.
    """
    if "gemma3" in str(getattr(config, "model_type", "")):
        return 1.0
    factors = (
        rope.get("factor") or 1.0
        for rope in _ropes(config)
        if _type_of(rope) in ("linear", "dynamic") and _rotates(config, rope)
    )
    return max(factors, default=1.0)


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """Return the settings of rotary embeddings: one, or one for each type of layer."""
    rope = getattr(config, "rope_parameters", None)
    rope = rope or getattr(config, "rope_scaling", None)
    if not isinstance(rope, Mapping):
        return []
    by_layer = [each for each in rope.values() if isinstance(each, Mapping)]
    return by_layer or [rope]


def _type_of(rope: Mapping[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type"))


def _rotates(config: Any, rope: Mapping[str, Any]) -> bool:
    """Whether the model has rotary embeddings.

    transformers gives them a ``rope_theta``. It keeps the key ``rope_scaling`` of other
    models too, and does not read it.
    """
    return "rope_theta" in rope or isinstance(config, SimpleNamespace)
