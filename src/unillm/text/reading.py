# SPDX-License-Identifier: Apache-2.0

"""What a model directory says about text: tokenizer, end ids, sampling defaults.

Read once, by the core, so that it is the same on every backend.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..params import SamplingParams
from .eos import EosIds, read_config_file, resolve_eos
from .tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from ..config import EngineConfig


_BUILT = "pretrained_config"
"""Key of a ``config.json`` that describes an engine that was built: it is not a model's
configuration, and no end ids stand in it."""


@attrs.frozen(kw_only=True)
class ModelText:
    """What `read_model_text` found."""

    tokenizer: Tokenizer
    eos: EosIds
    model_config: Mapping[str, Any]
    """``config.json``; empty if there is none."""
    default_params: SamplingParams
    """What a call without params uses."""


def read_model_text(config: EngineConfig) -> ModelText:
    """Read the files of a model that concern text; no weights.

    Raises:
        ModelLoadError: A configuration file is broken.
        TokenizerError: No tokenizer was found, or it cannot be read.
        UnsafeModelError: The tokenizer would run code from the checkpoint.
        EosNotFoundError: Nothing names an end id.
    """
    generation_config = _read_beside(config, "generation_config.json")
    model_config = read_config_file(config.path, "config.json")
    if model_config is not None and _BUILT in model_config:
        model_config = _read_beside(config, "config.json", first=False)
    tokenizer = load_tokenizer(
        config.path if config.tokenizer is None else config.tokenizer,
        trust_remote_code=config.trust_remote_code,
    )
    return ModelText(
        tokenizer=tokenizer,
        eos=resolve_eos(
            tokenizer, generation_config=generation_config, config=model_config
        ),
        model_config=model_config or {},
        default_params=SamplingParams.from_generation_config(generation_config or {}),
    )


def _read_beside(
    config: EngineConfig, name: str, *, first: bool = True
) -> dict[str, Any] | None:
    """Read a file of the model, or of the directory that its tokenizer comes from.

    An engine that was built may have neither a tokenizer nor a generation config; where
    the one is, the other is.
    """
    found = read_config_file(config.path, name) if first else None
    if found is None and isinstance(config.tokenizer, (str, os.PathLike)):
        found = read_config_file(Path(config.tokenizer), name)
    return found
