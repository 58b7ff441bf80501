# SPDX-License-Identifier: Apache-2.0

"""vLLM's failures at start-up in our words: which option, what numbers, what would fit.

vLLM has no classes for them, so they are known by their texts. One that is not known is
a `ModelLoadError` with vLLM's own text.
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
"""What a start may fail for, and is named in the message then."""


def configuration_refused(error: Exception, config: EngineConfig) -> UnillmError:
    """Return the error for options that vLLM does not take; nothing is started yet."""
    text = _plain(str(error))
    if "architectures" in text and "not supported" in text:
        return UnsupportedModelError(f"vLLM cannot serve {config.model!r}: {text}")
    if not config.trust_remote_code and "trust_remote_code=True" in text:
        return UnsafeModelError(
            f"{config.model!r} can only be loaded by code that it brings, and nothing "
            "of that was run. Read it; if you trust it, pass trust_remote_code=True. "
            f"vLLM says: {text}"
        )
    return ConfigError(f"vLLM refused the configuration: {text}")


def start_failed(
    error: Exception, config: EngineConfig, report: Report | None
) -> UnillmError:
    """Return the error for an engine that did not start.

    Args:
        error: What vLLM raised here.
        config: What was asked for.
        report: The first error of a process of vLLM's, which is the cause if there is
            one: *error* says only that there was one.
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
    """Whether vLLM, torch or Python says so."""
    return _MEMORY.search(text) is not None


def _out_of_memory(text: str, config: EngineConfig) -> str:
    fits = _FITS.search(text)
    shorter = f"max_model_len={fits[1]}" if fits else "a smaller max_model_len"
    if "on startup is less than" in text:
        advice = "a smaller gpu_memory_utilization, or end what holds the memory"
    else:
        advice = f"{shorter}, fewer max_num_seqs, or a larger gpu_memory_utilization"
    return (
        f"{config.model!r} does not fit. vLLM says: {text} To make it fit, create the "
        f"Generator with {advice}."
    )


def _plain(text: str) -> str:
    """Return vLLM's words without its links and pydantic's frame."""
    for noise in _NOISE:
        text = noise.sub("", text)
    return " ".join(text.split())
