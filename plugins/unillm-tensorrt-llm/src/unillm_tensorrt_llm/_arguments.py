# SPDX-License-Identifier: Apache-2.0

"""Arguments of the LLM classes: the plugin's own, merged with the user's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unillm.backend import phase, without_adapter
from unillm.errors import ConfigError

from . import _errors
from ._entry_paths import EntryPath, Installed
from ._names import vllm_name

if TYPE_CHECKING:
    from unillm.backend import EngineConfig

_LIMITS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
"""Limits that the core checks requests against; no option may override them."""

_KV_CACHE = "kv_cache_config"

KV_CACHE_DTYPES = ("auto", "fp8", "nvfp4")
"""Versions up to early 2026 ignored a name that they did not know, with a warning;
later ones refuse vLLM's ``fp8_e4m3`` and ``fp8_e5m2``."""

WHILE_STARTING = "while it started"


def merged(
    entry_path: EntryPath, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the user's `backend_options` into the arguments of the plugin.

    Raises:
        ConfigError: An option would override an argument of the plugin.
    """
    for name in options:
        ours = vllm_name(entry_path, name)
        if name in arguments or ours in _LIMITS:
            instead = f"pass {ours}= to the generator" if ours else "leave it out"
            raise ConfigError(
                f"backend_options has {name!r}, which unillm passes to TensorRT-LLM "
                f"itself: {instead}."
            )
    return {**arguments, **options}


def kv_cache(
    config: EngineConfig,
    installed: Installed,
    options: dict[str, Any],
    *,
    block_reuse: bool | None,
    dtype: bool,
) -> dict[str, Any]:
    """Return the ``kv_cache_config`` argument; empty if no option sets it.

    Here `gpu_memory_utilization` is a share of the memory that the weights leave free;
    in vLLM it is a share of all memory.

    Args:
        config: Its options about the cache.
        installed: Has ``KvCacheConfig``.
        options: The user's; a ``kv_cache_config`` is taken out and merged.
        block_reuse: Whether to share prefixes; `None` for TensorRT-LLM's default.
        dtype: Whether this entry path chooses the dtype of the cache.

    Raises:
        ConfigError: Both name a field, or TensorRT-LLM refuses a value.
    """
    asked: dict[str, Any] = {
        "free_gpu_memory_fraction": config.gpu_memory_utilization,
        "enable_block_reuse": block_reuse,
    }
    if dtype and config.kv_cache_dtype != "auto":
        if config.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise ConfigError(
                f"kv_cache_dtype must be one of {', '.join(KV_CACHE_DTYPES)} on "
                f"TensorRT-LLM, got {config.kv_cache_dtype!r}."
            )
        asked["dtype"] = config.kv_cache_dtype
    given = {name: value for name, value in asked.items() if value is not None}
    whole = options.pop(_KV_CACHE, None)
    if not given and whole is not None and not isinstance(whole, Mapping):
        return {_KV_CACHE: whole}
    theirs = fields_given(whole)
    if twice := sorted(given.keys() & theirs.keys()):
        raise ConfigError(
            f"{_KV_CACHE} in backend_options has {', '.join(twice)}, which unillm "
            "passes to TensorRT-LLM itself. Leave them out: gpu_memory_utilization, "
            "enable_prefix_caching and kv_cache_dtype of the generator set them."
        )
    if not given and not theirs:
        return {}
    with _errors.translating(WHILE_STARTING):
        made = installed.llm_module.KvCacheConfig(**given, **theirs)
    return {_KV_CACHE: made}


def fields_given(config: Any) -> dict[str, Any]:
    """Return the fields that the caller of a configuration class has set.

    Args:
        config: A mapping, an object of a pydantic class or a dataclass, or `None`.

    Raises:
        ConfigError: It is none of them.
    """
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    names = getattr(config, "model_fields_set", None)
    if names is None:
        names = getattr(config, "__dataclass_fields__", None)
    if names is None:
        raise ConfigError(
            f"kv_cache_config must be a dict or a KvCacheConfig, got {config!r}."
        )
    return {name: getattr(config, name) for name in names}


def make_llm(
    llm_class: Any, path: Path, arguments: dict[str, Any], *, facts: str
) -> Any:
    """Load an LLM, without a tokenizer unless *arguments* have one."""
    arguments = {"skip_tokenizer_init": "tokenizer" not in arguments, **arguments}
    doing = phase("TensorRT-LLM loads the model")
    with doing, _errors.translating(WHILE_STARTING, facts=facts):
        return llm_class(str(without_adapter(path)), **arguments)
