# SPDX-License-Identifier: Apache-2.0

"""Prepared engines by the name of a model: plan one, or build it.

A `Generator` builds the engine that it needs. These functions build it earlier, such as
on the way into production, or state its price.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import attrs
from typing_extensions import override

from .artifacts.folder import ArtifactFolder
from .artifacts.key import BuildSpec
from .artifacts.plan import EnginePlan, MemoryPlan, Outcome, make_plan
from .artifacts.progress import Listener
from .artifacts.store import Artifact, ArtifactStore
from .config import EngineConfig
from .embedded.memory import MEMORY_SHARE, plan_limits
from .engines.backend import Availability, Backend
from .engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
from .errors import BackendNotFoundError, ModelError
from .model.fitting import SMALLEST
from .model.memory import Limits
from .model.positions import model_positions
from .plugins import KNOWN
from .process.devices import gpus
from .resolve import configure, resolve

DEFAULT_NUM_SEQS = 8
"""Requests at a time in a plan where neither caller nor backend sets a number."""


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
    try:
        found = resolve(model, backend, runnable=False, **options)
    except BackendNotFoundError as error:
        if error.name not in KNOWN:
            raise
        return _plan_without_plugin(model, error.name, memory_bytes, **options)
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
        memory = _plan_memory(found.backend, found.config, spec, memory_bytes)
    except ModelError as error:
        return attrs.evolve(plan, memory_refusal=str(error))
    return attrs.evolve(plan, memory=memory)


def _plan_without_plugin(
    model: str | os.PathLike[str],
    backend: str,
    memory_bytes: int | None,
    **options: Any,
) -> EnginePlan:
    """Plan the memory of a model by its files alone."""
    config = configure(model, **options)
    plan = EnginePlan(
        backend=backend, model=config.model, spec=None, outcome=Outcome.NOT_INSTALLED
    )
    try:
        return attrs.evolve(
            plan, memory=_plan_memory(_Absent(), config, None, memory_bytes)
        )
    except ModelError as error:
        return attrs.evolve(plan, memory_refusal=str(error))


class _Absent(Backend):
    """A backend whose plugin is not installed: the model's files alone are known."""

    @override
    def availability(self) -> Availability:
        return Availability(available=False, reason="its plugin is not installed")

    @override
    def create_engine(self, config: EngineConfig) -> NoReturn:
        raise NotImplementedError("a plan creates no engine")


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
    backend: Backend,
    config: EngineConfig,
    spec: BuildSpec | None,
    memory_bytes: int | None,
) -> MemoryPlan:
    share = config.gpu_memory_utilization
    if memory_bytes is not None and share is not None:
        memory_bytes = int(memory_bytes * share)
    needs = backend.memory_needs(config)
    built = {} if spec is None else spec.limits
    device = config.backend_options.get("device", "auto")
    if device not in MEMORY_SHARE:
        device = "cuda" if memory_bytes is not None or gpus() else "cpu"
    default = backend.default_num_seqs(config, device=device) or DEFAULT_NUM_SEQS
    positions = model_positions(config.path)
    max_num_seqs = built.get("max_batch_size") or config.max_num_seqs
    max_model_len = built.get("max_seq_len") or config.max_model_len
    in_step = (
        built.get("max_num_tokens")
        or config.max_num_batched_tokens
        or DEFAULT_MAX_NUM_BATCHED_TOKENS
    )
    if memory_bytes is None:
        limits = Limits(
            max_num_seqs=max_num_seqs or default,
            max_model_len=max_model_len or positions,
            max_num_batched_tokens=in_step,
        )
    else:  # as an engine fits the limits that are left open
        rest = max(0, memory_bytes - needs.weight_bytes)
        if share is None:
            rest = int(rest * MEMORY_SHARE[device])
        limits = plan_limits(
            needs,
            positions=positions,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=in_step,
            default_slots=default,
            memory_bytes=needs.weight_bytes + rest,
        )
    return MemoryPlan(
        limits=limits,
        needs=needs,
        available_bytes=memory_bytes,
        smallest=_smallest(backend, config, spec),
    )


def _smallest(backend: Backend, config: EngineConfig, spec: BuildSpec | None) -> Limits:
    """Return the smallest value of each limit, which a build may raise.

    A step of an engine that computes a whole prompt at once holds the longest one.
    """
    if spec is None or not spec.limits.get("max_num_tokens"):
        return SMALLEST
    least = backend.build_spec(config.with_options(max_num_batched_tokens=1))
    assert least is not None, "a spec stays a spec with a smaller limit"
    in_step = least.limits["max_num_tokens"] or 1
    return attrs.evolve(SMALLEST, max_num_batched_tokens=in_step)
