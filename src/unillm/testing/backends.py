# SPDX-License-Identifier: Apache-2.0

"""Backends without a distribution, registered for the time of a test.

For tests of backends, and for tests of applications without an engine::

    with plugged(reference_backend()):
        generator = Generator("unillm/tiny", backend="scripted")
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from .. import plugins
from ..engines.backend import Availability, Backend
from ..engines.base import (
    SAMPLING_FIELDS,
    Capabilities,
    Capability,
    Engine,
    Support,
)
from ..hookspecs import hookimpl
from .batches import ScriptedBatchEngine
from .scripted import ScriptedEngine, ScriptedSlotEngine

if TYPE_CHECKING:
    from ..config import EngineConfig
    from .reference import ReferenceScript

Kind = Literal["continuous", "slots", "runs"]
"""The contract of the engine inside."""


class ScriptedBackend(Backend):
    """A backend around a function that creates engines.

    Args:
        make_engine: Creates an engine from a configuration.
        name: Name of the backend.
        capabilities: Capabilities of its engines, where a sampling field is not native.
        waivers: Clauses of the contract that its engines fail.
    """

    description = "follows a script; for tests"
    auto_rank = None

    def __init__(
        self,
        make_engine: Callable[[EngineConfig], Engine],
        *,
        name: str = "scripted",
        capabilities: Capabilities | None = None,
        waivers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._waivers = waivers
        self._make_engine = make_engine
        every = Capabilities.native(*SAMPLING_FIELDS)
        self.capabilities = every.refined(capabilities or Capabilities())

    @property
    @override
    def waivers(self) -> Mapping[str, str]:
        return self._waivers

    @override
    def availability(self) -> Availability:
        return Availability(available=True)

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        return self._make_engine(config)


@contextmanager
def plugged(backend: Backend) -> Iterator[Backend]:
    """Register *backend* inside the block, for all threads of this process."""

    class Plugin:
        @hookimpl
        def unillm_create_backend(self, name: str) -> Backend | None:
            return backend if name == backend.name else None

    assert backend.name not in plugins.PluginRegistry().names(), "the name is taken"
    plugins.PLUGGED[backend.name] = Plugin()
    try:
        yield backend
    finally:
        del plugins.PLUGGED[backend.name]


def reference_backend(kind: Kind = "slots", *, name: str = "scripted") -> Backend:
    """Return a backend that computes the bundled model in numpy.

    It honours every sampling field.

    Args:
        kind: Contract of the engine inside.
        name: Name of the backend.
    """
    masked = Capability(support=Support.EMULATED, reason="the core masks logits")
    return ScriptedBackend(
        functools.partial(_reference_engine, kind),
        name=name,
        capabilities=Capabilities(fields={"structured_outputs": masked}),
    )


def _reference_engine(kind: Kind, config: EngineConfig) -> Engine:
    from ..engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
    from ..scheduling.runs import RunScheduler
    from ..scheduling.slots import SlotScheduler

    script = reference_script()
    rows = config.max_num_seqs or 4
    shared: dict[str, Any] = {
        "max_model_len": config.max_model_len or script.model.max_model_len,
        "vocab_size": script.model.vocab_size,
        "prompt_script": script.prompt_logprobs,
    }
    if kind == "continuous":
        return ScriptedEngine(script, max_num_seqs=rows, **shared)
    if kind == "runs":
        batches = ScriptedBatchEngine(script, max_rows=rows, **shared)
        return RunScheduler(batches, clock=batches.clock)
    return SlotScheduler(
        ScriptedSlotEngine(script, num_slots=rows, **shared),
        max_num_batched_tokens=config.max_num_batched_tokens
        or DEFAULT_MAX_NUM_BATCHED_TOKENS,
    )


@functools.cache
def reference_script() -> ReferenceScript:
    """Return the script of the bundled model, made once a process."""
    from .reference import ReferenceScript

    return ReferenceScript()
