# SPDX-License-Identifier: Apache-2.0

"""vLLM's ``speculative_config`` as one of TensorRT-LLM's ``*DecodingConfig`` classes.

References:
    "Speculative Decoding" of the documentation, 1.0.0 and 1.3.0rc15: the draft model is
    ``speculative_model_dir`` in 1.0 and ``speculative_model`` from 1.2 on;
    ``EagleDecodingConfig`` became ``Eagle3DecodingConfig``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from unillm.errors import BackendUnavailableError, ConfigError

from ._entry_paths import Installed

_CLASSES = {
    "ngram": ("NGramDecodingConfig",),
    "draft_model": ("DraftTargetDecodingConfig",),
    "eagle3": ("Eagle3DecodingConfig", "EagleDecodingConfig"),
    "eagle": ("EagleDecodingConfig",),
    "mtp": ("MTPDecodingConfig",),
}
"""vLLM's ``method`` to TensorRT-LLM's classes, newest first."""

_MODEL_NAMES = ("speculative_model", "speculative_model_dir")
_KNOWN = {"method", "num_speculative_tokens", "model"}


def decoding_config(config: Mapping[str, Any], installed: Installed) -> Any:
    """Make the ``speculative_config`` of the LLM class.

    Raises:
        ConfigError: A method or key has no counterpart.
        BackendUnavailableError: This version does not have the method.
    """
    method = config.get("method")
    if method not in _CLASSES:
        raise ConfigError(
            f"The method of speculative_config must be one of {', '.join(_CLASSES)} on "
            f"TensorRT-LLM, got {method!r}."
        )
    if unknown := sorted(config.keys() - _KNOWN):
        raise ConfigError(
            f"speculative_config has {', '.join(unknown)}, which TensorRT-LLM does not "
            f"have. It takes {', '.join(sorted(_KNOWN))}."
        )
    tokens = config.get("num_speculative_tokens")
    if not isinstance(tokens, int) or tokens < 1:
        raise ConfigError(
            f"speculative_config needs num_speculative_tokens ≥ 1, got {tokens!r}."
        )
    found = [
        getattr(installed.llm_module, name)
        for name in _CLASSES[method]
        if hasattr(installed.llm_module, name)
    ]
    if not found:
        raise BackendUnavailableError(
            f"TensorRT-LLM {installed.version} has no {_CLASSES[method][0]}, which "
            f"speculative_config with method={method!r} needs.",
            name="tensorrt-llm",
        )
    given = {"max_draft_len": tokens}
    if model := config.get("model"):
        names = inspect.signature(found[0]).parameters
        name = next((n for n in _MODEL_NAMES if n in names), _MODEL_NAMES[0])
        given[name] = model
    return found[0](**given)
