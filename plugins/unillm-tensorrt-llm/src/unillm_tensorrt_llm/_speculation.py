# SPDX-License-Identifier: Apache-2.0

"""vLLM's ``speculative_config`` as one of TensorRT-LLM's ``*DecodingConfig`` classes.

References:
    ``tensorrt_llm/llmapi/llm_args.py`` of 1.0 to mid-2026, and "Speculative Decoding"
    of the documentation, 1.0.0 and 1.3.0rc15: the draft model is
    ``speculative_model_dir`` in 1.0 and ``speculative_model`` from 1.2 on;
    ``EagleDecodingConfig`` became ``Eagle3DecodingConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from unillm.errors import BackendUnavailableError, ConfigError

from . import _errors
from ._entry_paths import EntryPath, Installed, fields_of

_CLASSES = {
    "ngram": ("NGramDecodingConfig",),
    "draft_model": ("DraftTargetDecodingConfig",),
    "eagle3": ("Eagle3DecodingConfig", "EagleDecodingConfig"),
    "eagle": ("EagleDecodingConfig",),
    "mtp": ("MTPDecodingConfig",),
}
"""vLLM's ``method`` to TensorRT-LLM's classes, newest first."""

_NEEDS_MODEL = ("draft_model", "eagle3", "eagle")

_MODEL_NAMES = ("speculative_model", "speculative_model_dir")
_LENGTH_NAMES = ("max_draft_len", "num_nextn_predict_layers")  # the latter: MTP of 1.0
_KNOWN = {"method", "num_speculative_tokens", "model"}

_DRAWS = "allow_advanced_sampling"
"""Without it temperature is ignored; a deprecated one does nothing, because each
request then decides (``llm_args.py``, mid-2026)."""


@attrs.frozen
class Speculation:
    """Arguments of the LLM class for speculative decoding, and what it draws."""

    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    draws: bool = False
    """Whether it honours temperature, top-k and top-p."""

    @property
    def active(self) -> bool:
        """Whether tokens are drafted at all."""
        return bool(self.arguments)


def speculation(
    config: Mapping[str, Any] | None, installed: Installed, entry_path: EntryPath
) -> Speculation:
    """Return the arguments for a ``speculative_config`` of vLLM.

    Raises:
        ConfigError: A method, a key or a value has no counterpart.
        BackendUnavailableError: This version does not have the method.
    """
    if config is None:
        return Speculation()
    method = config.get("method")
    if method not in _CLASSES:
        raise ConfigError(
            f"The method of speculative_config must be one of {', '.join(_CLASSES)} on "
            f"TensorRT-LLM, got {method!r}."
        )
    if method == "eagle" and entry_path is EntryPath.PYTORCH:
        raise ConfigError(
            "speculative_config with method='eagle': TensorRT-LLM on PyTorch takes "
            "every EAGLE draft for one of EAGLE 3, and those of EAGLE 1 and 2 do not "
            "fit. Pass method='eagle3' with a draft of EAGLE 3."
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
    if method in _NEEDS_MODEL and not config.get("model"):
        raise ConfigError(
            f"speculative_config with method={method!r} needs model, the directory or "
            f"name of the draft model, got {config.get('model')!r}."
        )
    found = _class_of(method, installed)
    fields = fields_of(found)
    given = {_first(_LENGTH_NAMES, fields): tokens}
    if model := config.get("model"):
        given[_first(_MODEL_NAMES, fields)] = model
    draws = _DRAWS in fields
    if draws and not _deprecated(fields[_DRAWS]):
        given[_DRAWS] = True
    with _errors.translating("while it made its speculative_config"):
        arguments = {"speculative_config": found(**given)}
    if method == "draft_model" and entry_path is EntryPath.PYTORCH:
        arguments["disable_overlap_scheduler"] = True
    return Speculation(arguments, draws)


def _class_of(method: str, installed: Installed) -> Any:
    for name in _CLASSES[method]:
        if found := getattr(installed.llm_module, name, None):
            return found
    raise BackendUnavailableError(
        f"TensorRT-LLM {installed.version} has no {_CLASSES[method][0]}, which "
        f"speculative_config with method={method!r} needs.",
        name="tensorrt-llm",
    )


def _first(names: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    """Return the first of *names* that is a field, or the first."""
    return next((name for name in names if name in fields), names[0])


def _deprecated(field: Any) -> bool:
    """Whether a field of a pydantic class is marked as deprecated.

    TensorRT-LLM's own ``Field`` keeps its ``status`` in the JSON schema's extras.
    """
    extra = getattr(field, "json_schema_extra", None)
    status = extra.get("status") if isinstance(extra, Mapping) else None
    return status == "deprecated" or bool(getattr(field, "deprecated", None))
