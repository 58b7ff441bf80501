# SPDX-License-Identifier: Apache-2.0

"""What a plugin provides: a `Backend`, which creates engines."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from .base import Capabilities

if TYPE_CHECKING:
    from pathlib import Path

    from ..artifacts.key import BuildSpec
    from ..artifacts.progress import Progress
    from ..config import EngineConfig
    from ..model.memory import MemoryNeeds
    from .base import Engine


CONTRACT_VERSION = 1
"""Version of the contract between the core and backends.

It is raised when a backend that was right before has to change: an abstract method is
added, an argument, a field or a method is removed or changes its meaning, or a clause
asks for more. New fields with defaults, new optional methods and new helpers leave it
as it is.
"""


@attrs.frozen(kw_only=True)
class Availability:
    """Whether a backend can run here; if not, why, and the command that helps."""

    available: bool
    reason: str = ""
    remedy: str | None = None


@attrs.frozen(kw_only=True)
class Finding:
    """What `unillm doctor` found out about something that a backend relies on."""

    assumption: str
    """As a sentence in the present tense."""
    source: str
    """Where it comes from, for a person to look up."""
    held: bool | None
    """`None` where no source says it, and this is the first answer."""
    detail: str = ""
    """What was seen."""


class Backend(abc.ABC):
    """Creates engines of one kind. Making one loads nothing heavy."""

    contract_version: int = 1
    """The `CONTRACT_VERSION` that the backend was written for, as a literal number.

    The default stays 1: a class that says nothing was written for the first version,
    whichever one is installed."""

    name: str
    """What the user writes, in lower case. The name of the entry point too."""

    description: str
    """One line for `unillm backends`."""

    auto_rank: int | None = 50
    """Place in the order in which ``backend="auto"`` looks. Lower is sooner, and the
    embedded default has 100. `None` is never chosen automatically."""

    option_names: frozenset[str] | None = frozenset()
    """Keys of `backend_options` that this backend takes; `None` if `create_engine`
    checks them, because only the loaded engine knows its options."""

    engine_options: frozenset[str] = frozenset()
    """Those of `config.ENGINE_OPTIONS` that this backend honours."""

    option_reasons: Mapping[str, str] = MappingProxyType({})
    """Why it does not honour one of the others, where a person would ask."""

    @property
    def waivers(self) -> Mapping[str, str]:
        """Clauses of the contract that its engines do not hold, by number, and why.

        `unillm conformance` shows that they fail, and prints the reason. May import the
        engine.
        """
        return MappingProxyType({})

    capabilities: Capabilities = Capabilities()
    """The abilities of its engines; the `capabilities` of an engine go first."""

    @abc.abstractmethod
    def availability(self) -> Availability:
        """Say whether it can run here. Looks for packages and devices; loads none."""

    def refusal(self, config: EngineConfig) -> str | None:
        """Say why a model cannot be served, or `None`. Asked by ``backend="auto"``."""
        del config
        return None

    def memory_needs(self, config: EngineConfig) -> MemoryNeeds:
        """Say what a model takes of each device's memory; works without the engine.

        By default what the files of the model say; a backend adds what it knows of its
        engine.

        Raises:
            ModelError: The model cannot be read, or nothing is known of its kind.
        """
        from ..model.memory import memory_needs

        num_devices = config.tensor_parallel_size * config.pipeline_parallel_size
        return memory_needs(config.path, dtype=config.dtype).sharded(num_devices)

    def examine(self, config: EngineConfig) -> Iterator[Finding]:
        """Check on the real engine what the backend assumes of it.

        For backends whose engine the authors could not run everywhere. Loads the model.
        Raises what `create_engine` raises.
        """
        del config
        return iter(())

    def build_spec(self, config: EngineConfig) -> BuildSpec | None:
        """Say what would be built for a configuration; `None` if nothing has to be.

        Works without the engine: what only the engine or a device knows is `None` in
        the spec, and then nothing can be built, but planned. Options that were left
        open are filled in here, so that the same configuration gives the same spec.

        Raises:
            ConfigError: An option has no meaning here.
            ModelError: The model cannot be read.
        """
        del config
        return None

    def build(self, spec: BuildSpec, target: Path, progress: Progress) -> None:
        """Convert or compile an engine into an empty folder.

        Called through `ArtifactStore.obtain`, which makes what is written there last,
        checks it at each load and clears it away after a failure. Reads the model and
        the spec and nothing else, so that the key of the spec cannot miss anything.

        Args:
            spec: From `build_spec`.
            target: Where the files go, in folders below it or not. No links.
            progress: To be told how far it is.
        """
        raise NotImplementedError(f"the backend {self.name!r} builds nothing")

    def remark(self, config: EngineConfig) -> str | None:
        """Say what a person should know of how a model would be served, or `None`.

        `unillm inspect` shows it; an engine that is created says the same in its log.
        """
        del config
        return None

    @abc.abstractmethod
    def create_engine(self, config: EngineConfig) -> Engine:
        """Load the model and return an engine that is ready for requests.

        Called once a generator. Takes as long and as much memory as loading does.

        Raises:
            ConfigError: An option has no meaning here.
            ModelError: The model cannot be loaded.
            BackendUnavailableError: It cannot run here after all.
            EngineOutOfMemoryError: The model or its cache does not fit.
        """
