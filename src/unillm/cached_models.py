# SPDX-License-Identifier: Apache-2.0

"""The models in the cache of the hub, and what this environment can do with each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from .config import EngineConfig
from .engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
from .errors import ModelError, UnillmError
from .model.checkpoint import check_weights, read_config
from .model.directory import check_directory
from .model.memory import Limits, MemoryNeeds, memory_needs
from .model.positions import model_positions
from .plugins import PluginRegistry

LENGTH = 4096
"""Largest length of the request that `CachedModel.memory_bytes` is for."""


@attrs.frozen(kw_only=True)
class CachedModel:
    """One revision of a model in the cache."""

    name: str
    revisions: tuple[str, ...]
    """Branches and tags that point to the commit; empty if it is an older one."""
    commit: str
    path: Path
    total_bytes: int
    """Size on the disk, shared files included."""
    last_use: dt.datetime
    model_type: str | None = None
    """The family; `None` without ``config.json``."""
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    length: int | None = None
    """Tokens of the request that `memory_bytes` is for: `LENGTH`, or the context."""
    memory_bytes: int | None = None
    """Memory of the embedded backend with one request; `None` if unknown."""
    backends: tuple[str, ...] = ()
    """Backends of this environment that would serve it."""
    refusals: dict[str, str] = attrs.field(factory=dict)
    """Why the others would not, by name."""
    problem: str = ""
    """Why the files cannot be used; empty if they can."""


def cache_directory() -> Path:
    """Return the directory of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_models() -> list[CachedModel]:
    """Return the models in the cache of the hub, by name; loads none.

    Asks every backend of this environment that can run here.
    """
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir(cache_directory()).repos
    except CacheNotFound:
        return []
    registry = PluginRegistry()
    found = [
        _describe(registry, repository.repo_id, revision)
        for repository in repositories
        if repository.repo_type == "model"
        for revision in repository.revisions
    ]
    return sorted(found, key=lambda each: (each.name.lower(), not each.revisions))


def _describe(registry: PluginRegistry, name: str, revision: Any) -> CachedModel:
    path = Path(revision.snapshot_path)
    used = max(
        (file.blob_last_accessed for file in revision.files),
        default=revision.last_modified,
    )
    model = CachedModel(
        name=name,
        revisions=tuple(sorted(revision.refs)),
        commit=revision.commit_hash,
        path=path,
        total_bytes=revision.size_on_disk,
        last_use=dt.datetime.fromtimestamp(used).astimezone(),
    )
    try:
        model = attrs.evolve(model, model_type=read_config(path).get("model_type"))
        check_directory(path)
        check_weights(path)
    except ModelError as error:
        return attrs.evolve(model, problem=str(error))
    refusals = dict(_refusals(registry, model))
    return attrs.evolve(
        model,
        **_memory(path),
        backends=tuple(backend for backend, why in refusals.items() if not why),
        refusals={backend: why for backend, why in refusals.items() if why},
    )


def _refusals(
    registry: PluginRegistry, model: CachedModel
) -> Iterator[tuple[str, str]]:
    """Yield each backend that can run here, and why it would not serve the model."""
    for backend in registry.loadable():
        if not registry.availability(backend).available:
            continue
        config = EngineConfig.create(
            model=model.name, path=model.path, backend=backend.name
        )
        try:
            yield backend.name, registry.refusal(backend, config) or ""
        except UnillmError as error:
            yield backend.name, str(error)


def _memory(path: Path) -> dict[str, Any]:
    """Return the fields about memory; none if the sizes are unknown."""
    try:
        needs: MemoryNeeds = memory_needs(path)
        length = min(LENGTH, model_positions(path))
    except ModelError:
        return {}
    limits = Limits(
        max_num_seqs=1,
        max_model_len=length,
        max_num_batched_tokens=DEFAULT_MAX_NUM_BATCHED_TOKENS,
    )
    return {
        "weight_bytes": needs.weight_bytes,
        "kv_bytes_per_token": needs.kv_bytes_per_token,
        "length": length,
        "memory_bytes": needs.estimate(limits).total_bytes,
    }
