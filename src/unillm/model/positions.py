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
from .checkpoint import load_config, read_config
from .sizes import first_of

UNBOUNDED = 2048
"""Positions of a model that names no bound: Bloom was trained on so many."""

_NAMES = (
    "max_position_embeddings",
    "n_positions",  # GPT-2
    "n_ctx",
    "max_seq_len",  # MPT, DBRX
    "max_sequence_length",
    "seq_length",  # Bloom, ChatGLM
)


def model_positions(path: Path, *, extended: bool = False) -> int:
    """Return the positions of the model in a directory.

    Raises:
        ModelError: There is no model, or transformers refuses its ``config.json`` and
            that names no context.
    """
    try:
        return positions_of(load_config(path), extended=extended)
    except ModelLoadError as error:
        declared = read_config(path)
        inner = declared.get("text_config")
        inner = inner if isinstance(inner, dict) else {}
        config = SimpleNamespace(**{**declared, **inner})
        if positions := _positions(config, extended=extended):
            return positions
        raise ModelLoadError(
            f"{error} config.json names no context either: none of "
            f"{', '.join(_NAMES)} is there."
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
    return (not extended and _short_context(config)) or first_of(config, *_NAMES)


def _short_context(config: Any) -> int:
    """Return the context in which longrope keeps its factors; 0 without longrope.

    Beyond it, the longest row of a step would choose the factors of all rows, and the
    cache of a row would have to be computed anew when the row gets there.
    """
    rope = getattr(config, "rope_parameters", None)
    rope = rope or getattr(config, "rope_scaling", None)
    if not isinstance(rope, Mapping):
        return 0
    if "longrope" not in (rope.get("rope_type"), rope.get("type")):
        return 0
    name = "original_max_position_embeddings"
    return first_of(config, name) or first_of(SimpleNamespace(**rope), name)
