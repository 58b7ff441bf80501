# SPDX-License-Identifier: Apache-2.0

"""vLLM's failures at start-up as unillm's errors, with options, numbers and a remedy.

vLLM has no classes for them, so this module matches their texts. An unknown text
becomes a `ModelLoadError` with that text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unillm.errors import (
    ConfigError,
    EngineOutOfMemoryError,
    ModelLoadError,
    UnillmError,
    UnsafeModelError,
    UnsupportedModelError,
)

from ._processes import MISSING_GUARD, Report

if TYPE_CHECKING:
    from unillm.backend import EngineConfig

_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|No available memory for the cache|"
    r"KV cache is needed, which is larger|Free memory on device|"
    r"Available memory on node|can't allocate memory|Cannot allocate memory",
    re.IGNORECASE,
)
_FITS = re.compile(r"estimated maximum model length is (\d+)")

_PLACES = re.compile(r"NUMA nodes|World size|number of .*GPUs", re.IGNORECASE)

_NOISE = (
    re.compile(r"^\s*\d+ validation errors? for \w+"),
    re.compile(r"\[type=.*?\]\s*", re.DOTALL),
    re.compile(r"(For further information visit|See) https?://\S+( for more \w+\.)?"),
)

_OPTIONS = (
    "quantization",
    "kv_cache_dtype",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "speculative_config",
    "enable_lora",
)
"""Options that the message of a failed start names, because they may be the cause."""


def configuration_refused(error: Exception, config: EngineConfig) -> UnillmError:
    """Return the error for options that vLLM refuses, before it starts anything."""
    text = _plain(str(error))
    if "architectures" in text and "not supported" in text:
        return UnsupportedModelError(f"vLLM cannot serve {config.model!r}: {text}")
    if not config.trust_remote_code and "trust_remote_code=True" in text:
        return UnsafeModelError(
            f"{config.model!r} needs code of its checkpoint, and none of it has run. "
            "Read it; if you trust it, pass trust_remote_code=True. "
            f"vLLM reports: {text}"
        )
    return ConfigError(f"vLLM refused the configuration: {text}")


def start_failed(
    error: Exception, config: EngineConfig, report: Report | None
) -> UnillmError:
    """Return the error for an engine that did not start.

    Args:
        error: Raised by vLLM in this process.
        config: Of the engine.
        report: The first error of a process of vLLM, if any. It is the cause; *error*
            then says only that a process failed.
    """
    cause = report or Report(type(error).__name__, str(error))
    text = _plain(cause.message)
    if cause.kind == "MissingGuard":
        return ConfigError(MISSING_GUARD)
    if is_out_of_memory(f"{cause.kind}: {text}"):
        return EngineOutOfMemoryError(_out_of_memory(text, config))
    given = [
        f"{name}={getattr(config, name)!r}"
        for name in _OPTIONS
        if name in config.sources
    ]
    asked = f" with {', '.join(given)}" if given else ""
    says = f"{cause.kind}: {text}" if text else cause.kind
    if _PLACES.search(text):
        return ConfigError(f"vLLM cannot place {config.model!r}{asked} here: {says}")
    return ModelLoadError(f"vLLM could not start {config.model!r}{asked}: {says}")


def is_out_of_memory(text: str) -> bool:
    """Whether a text of vLLM, torch or Python reports that memory ran out."""
    return _MEMORY.search(text) is not None


def _out_of_memory(text: str, config: EngineConfig) -> str:
    fits = _FITS.search(text)
    shorter = f"max_model_len={fits[1]}" if fits else "a smaller max_model_len"
    if "on startup is less than" in text:
        advice = "a smaller gpu_memory_utilization, or end the programs that hold it"
    else:
        advice = f"{shorter}, fewer max_num_seqs, or a larger gpu_memory_utilization"
    return (
        f"{config.model!r} does not fit. vLLM reports: {text} To make it fit, create "
        f"the Generator with {advice}."
    )


def _plain(text: str) -> str:
    """Return vLLM's text without links and pydantic's frame."""
    for noise in _NOISE:
        text = noise.sub("", text)
    return " ".join(text.split())
