# SPDX-License-Identifier: Apache-2.0

"""Prepared engines by the name of a model: plan one, or build it.

A `Generator` builds the engine that it needs. These functions build it earlier, such as
on the way into production, or state its price.
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
from .engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
from .errors import ModelError
from .model.memory import Limits
from .model.positions import model_positions
from .resolve import Resolved, resolve

DEFAULT_NUM_SEQS = 8
"""Requests at a time in a plan, if neither the engine nor the caller sets a number."""


def plan_engine(
    model: str | os.PathLike[str],
    *,
    backend: str | None = None,
    memory_bytes: int | None = None,
    **options: Any,
) -> EnginePlan:
    """Return which engine would be built for a model, why, and the memory it takes.

    Builds and loads nothing. A named backend makes a plan even where its engine is not
    installed.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Name of the backend; `None` for the choice of a `Generator`.
        memory_bytes: Memory of the device; `None` leaves open whether the engine fits.
        options: Other fields of `EngineConfig`.

    Raises:
        ConfigError: An option has an invalid value.
        ModelError: The model cannot be found or read.
        BackendError: No backend has the name, or for `None`, none can run here.
    """
    found = resolve(model, backend, runnable=False, **options)
    spec = found.backend.build_spec(found.config)
    if spec is None:
        plan = EnginePlan(
            backend=found.backend.name,
            model=found.config.model,
            spec=None,
            outcome=Outcome.NOTHING_TO_BUILD,
        )
    else:
        plan = make_plan(spec, ArtifactFolder())
    try:
        memory = _plan_memory(found, spec, memory_bytes)
    except ModelError as error:
        return attrs.evolve(plan, memory_refusal=str(error))
    return attrs.evolve(plan, memory=memory)


def prepare_engine(
    model: str | os.PathLike[str],
    *,
    backend: str | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Artifact | None:
    """Build an engine for a model, unless a built engine serves already.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Name of the backend; `None` for the choice of a `Generator`.
        listener: Called with each stage of the build; `None` logs them.
        options: Other fields of `EngineConfig`.

    Returns:
        The engine, to be closed; `None` if the backend loads the model as it is.

    Raises:
        ConfigError: An option has an invalid value.
        ModelError: The model cannot be found or read.
        BackendError: The backend does not exist or cannot run here.
        EngineBuildError: The build failed, and its files are removed.
    """
    found = resolve(model, backend, **options)
    spec = found.backend.build_spec(found.config)
    if spec is None:
        return None
    return ArtifactStore().obtain(spec, found.backend.build, listener=listener)


def _plan_memory(
    found: Resolved, spec: BuildSpec | None, memory_bytes: int | None
) -> MemoryPlan:
    config = found.config
    if memory_bytes is not None and config.gpu_memory_utilization is not None:
        memory_bytes = int(memory_bytes * config.gpu_memory_utilization)
    built = {} if spec is None else spec.limits
    return MemoryPlan(
        limits=Limits(
            max_num_seqs=built.get("max_batch_size")
            or config.max_num_seqs
            or DEFAULT_NUM_SEQS,
            max_model_len=built.get("max_seq_len")
            or config.max_model_len
            or model_positions(config.path),
            max_num_batched_tokens=built.get("max_num_tokens")
            or config.max_num_batched_tokens
            or DEFAULT_MAX_NUM_BATCHED_TOKENS,
        ),
        needs=found.backend.memory_needs(config),
        available_bytes=memory_bytes,
    )
