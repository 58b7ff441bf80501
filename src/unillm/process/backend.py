# SPDX-License-Identifier: Apache-2.0

"""`ProcessBackend`: a backend of another interpreter, as a `Backend` like any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from typing_extensions import override

from ..engines.backend import Availability, Backend, Finding, Sometimes
from ..errors import ConfigError
from ..phases import phase
from .devices import Share, gpus, shares
from .engine import ProcessEngine
from .messages import Answer, Ask, Describe, Facts, List, Listing
from .peer import ANY, Peer
from .replicas import ReplicatedEngine
from .values import as_capabilities, encode_config

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..engines.base import Engine


class ProcessBackend(Backend):
    """A backend of another environment. Creates engines in processes of it.

    Args:
        python: Path of the interpreter.
        facts: The backend, as it is declared there.

    Attributes:
        python: Path of the interpreter.
        distribution: Name and version of the distribution that provides it there.
    """

    def __init__(self, python: str, facts: Facts) -> None:
        self.python = python
        self.facts = facts
        self.name = facts.name
        self.description = facts.description
        self.distribution = facts.distribution
        self.auto_rank = facts.auto_rank
        names = facts.option_names
        self.option_names = None if names is None else frozenset(names)
        self.engine_options = frozenset(facts.engine_options)
        self.option_reasons = facts.option_reasons
        self.reads_weights = facts.reads_weights
        self.capabilities = as_capabilities(facts.capabilities)

    @property
    @override
    def waivers(self) -> Mapping[str, str]:
        return {
            number: Sometimes(reason) if number in self.facts.sometimes else reason
            for number, reason in self.facts.waivers.items()
        }

    @override
    def availability(self) -> Availability:
        facts = self.facts
        return Availability(
            available=facts.available, reason=facts.reason, remedy=facts.remedy
        )

    @override
    def refusal(self, config: EngineConfig) -> str | None:
        return cast("str | None", self._ask("refusal", config))

    @override
    def remark(self, config: EngineConfig) -> str | None:
        return cast("str | None", self._ask("remark", config))

    @override
    def examine(self, config: EngineConfig) -> Iterator[Finding]:
        return iter([Finding(**each) for each in self._ask("examine", config)])

    @override
    def build_spec(self, config: EngineConfig) -> NoReturn:
        raise ConfigError(
            f"An engine for {self.name!r} is planned and built in its own environment. "
            f"Run: {self.python} -m unillm plan {config.model} --backend {self.name}"
        )

    @override
    def create_engine(self, config: EngineConfig) -> Engine:
        count = config.data_parallel_size
        if count == 1:
            return self._start(config, Share())
        on_cpu = config.backend_options.get("device") == "cpu"
        parts = shares(
            count,
            [] if on_cpu else gpus(),
            each=config.tensor_parallel_size * config.pipeline_parallel_size,
            cores=_cores(),
        )
        return ReplicatedEngine(
            lambda number, begun: self._start(config, parts[number], begun),
            count,
            step_timeout_s=config.step_timeout_s,
        )

    def _start(
        self,
        config: EngineConfig,
        share: Share,
        begun: Callable[[Peer], None] = lambda _: None,
    ) -> ProcessEngine:
        with phase(f"starting {self.python}"):
            peer = Peer(self.python, self.name, environment=share.environment)
        begun(peer)
        return ProcessEngine(peer, self.name, config, cores=share.cores)

    def _ask(self, method: str, config: EngineConfig) -> Any:
        question = Ask(self.name, method, encode_config(config))
        with _peer(self.python, self.name) as peer:
            return peer.ask(question, Answer).value


def _cores() -> list[int]:
    """Return the cores of this process."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # not Linux


def describe(python: str, backend: str) -> Facts:
    """Ask an interpreter about one backend.

    Raises:
        BackendNotFoundError: It is not installed there.
        BackendUnavailableError: The interpreter cannot be run or has no unillm.
    """
    with _peer(python, backend) as peer:
        return peer.ask(Describe(backend), Facts)


def list_backends(python: str) -> list[Facts]:
    """Ask an interpreter about all its backends.

    Raises:
        BackendUnavailableError: The interpreter cannot be run or has no unillm.
    """
    with _peer(python, ANY) as peer:
        return peer.ask(List(), Listing).backends


@contextlib.contextmanager
def _peer(python: str, backend: str) -> Iterator[Peer]:
    peer = Peer(python, backend)
    try:
        yield peer
        peer.end(10.0)
    finally:
        peer.close()
