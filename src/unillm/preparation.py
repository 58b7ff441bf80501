# SPDX-License-Identifier: Apache-2.0

"""Prepared engines by the name of a model: plan one, or have it built.

A `Generator` builds what it needs by itself. This is for doing it before: on the way
into production, or to know the price.
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from .artifacts.folder import ArtifactFolder
from .artifacts.key import BuildSpec
from .artifacts.plan import EnginePlan, MemoryPlan, Outcome, make_plan
from .artifacts.progress import Listener
from .artifacts.store import Artifact, ArtifactStore
from .config import EngineConfig
from .engines.backend import Backend
from .engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
from .errors import ModelError
from .model.memory import Limits
from .model.positions import model_positions
from .resolve import resolve

DEFAULT_NUM_SEQS = 8
"""Requests at a time that a plan counts with where nobody says how many."""


def plan_engine(
    model: str | os.PathLike[str],
    *,
    backend: str | None = None,
    memory_bytes: int | None = None,
    **options: Any,
) -> EnginePlan:
    """Say what would be built for a model, why, and what it takes of memory.

    Builds and loads nothing. A backend that is named is planned for even where its
    engine is not installed.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Its name; `None` for what a `Generator` would take here.
        memory_bytes: Of the device; `None` leaves open whether it fits.
        options: Other fields of `EngineConfig`.

    Raises:
        ConfigError: An option has a value that cannot work.
        ModelError: The model cannot be found or read.
        BackendError: No backend has the name, or for `None`, none can run here.
    """
    found = resolve(model, backend, runnable=False, **options)
    config, chosen = found.config, found.backend
    spec = chosen.build_spec(config)
    plan = (
        EnginePlan(
            backend=chosen.name,
            model=config.model,
            spec=None,
            outcome=Outcome.NOTHING_TO_BUILD,
        )
        if spec is None
        else make_plan(spec, ArtifactFolder())
    )
    memory, refusal = _plan_memory(chosen, config, spec, memory_bytes)
    return attrs.evolve(plan, memory=memory, memory_refusal=refusal)


def prepare_engine(
    model: str | os.PathLike[str],
    *,
    backend: str | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Artifact | None:
    """Build an engine for a model, unless one is there that serves.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Its name; `None` for what a `Generator` would take.
        listener: Told what happens; `None` logs it.
        options: Other fields of `EngineConfig`.

    Returns:
        The engine, to be closed; `None` if the backend loads the model as it is.

    Raises:
        ConfigError: An option has a value that cannot work.
        ModelError: The model cannot be found or read.
        BackendError: The backend does not exist or cannot run here.
        EngineBuildError: The build failed; nothing is left of it.
    """
    found = resolve(model, backend, **options)
    spec = found.backend.build_spec(found.config)
    if spec is None:
        return None
    return ArtifactStore().obtain(spec, found.backend.build, listener=listener)


def _plan_memory(
    backend: Backend,
    config: EngineConfig,
    spec: BuildSpec | None,
    memory_bytes: int | None,
) -> tuple[MemoryPlan | None, str]:
    """Return what the engine takes, or why that is not known."""
    if memory_bytes is not None and config.gpu_memory_utilization is not None:
        memory_bytes = int(memory_bytes * config.gpu_memory_utilization)
    try:
        plan = MemoryPlan(
            limits=_limits(config, spec),
            needs=backend.memory_needs(config),
            available_bytes=memory_bytes,
        )
    except ModelError as error:
        return None, str(error)
    return plan, ""


def _limits(config: EngineConfig, spec: BuildSpec | None) -> Limits:
    """Take what is built for, else what was asked, else what is usual."""
    built = {} if spec is None else spec.limits
    return Limits(
        max_num_seqs=built.get("max_batch_size")
        or config.max_num_seqs
        or DEFAULT_NUM_SEQS,
        max_model_len=built.get("max_seq_len")
        or config.max_model_len
        or model_positions(config.path),
        max_num_batched_tokens=built.get("max_num_tokens")
        or config.max_num_batched_tokens
        or DEFAULT_MAX_NUM_BATCHED_TOKENS,
    )
