# SPDX-License-Identifier: Apache-2.0

"""`Backend`: the contract of a plugin, which creates engines of one kind."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from .base import Capabilities, Engine

if TYPE_CHECKING:  # values of other packages, for annotations alone
    from ..artifacts.key import BuildSpec
    from ..artifacts.progress import Progress
    from ..config import EngineConfig
    from ..model.memory import MemoryNeeds


API_VERSION = (1, 0)
"""Version of `unillm.backend`, the face for authors.

The first number grows when a correct backend has to change: a method becomes abstract,
a name, an argument or a field goes or changes its meaning, or a clause of the contract
demands more. The second grows with each addition: names, optional methods, fields with
defaults.
"""


@attrs.frozen(kw_only=True)
class Availability:
    """Whether a backend can run on this machine; if not, why, and how to fix it."""

    available: bool
    reason: str = ""
    """Why it cannot run; empty if it can."""
    remedy: str | None = None
    """A command or an action that makes it available."""


@attrs.frozen(kw_only=True)
class Finding:
    """One check of `Backend.examine`, which `unillm doctor --contract` prints."""

    assumption: str
    """A fact about the engine, as a sentence in the present tense."""
    source: str
    """Where a person can look the fact up."""
    held: bool | None
    """Whether the fact holds here; `None` if no source states it, and this check is the
    first answer."""
    detail: str = ""
    """The values that the check saw."""


class Sometimes(str):
    """The reason of a waiver whose clause fails at times and passes at others."""

    __slots__ = ()


class Backend(abc.ABC):
    """Creates engines of one kind. Its constructor imports no engine."""

    api_version: tuple[int, int] = (1, 0)
    """The `API_VERSION` that the backend was written for, as literal numbers.

    The core refuses a backend of a later version, or of one that it serves no more,
    before it creates an engine. The default stays as it is: a class without this
    attribute was written for the first version."""

    name: str
    """The name that users write, in lower case; also the name of the entry point."""

    description: str
    """One line for `unillm backends`."""

    auto_rank: int | None = None
    """Rank for ``backend="auto"``, which takes the available backend of the lowest
    number; the embedded backend has 100. `None` excludes the backend: an installed
    plugin changes no program that does not name it."""

    option_names: frozenset[str] | None = frozenset()
    """The keys of `backend_options` that the backend accepts. `None` if only the loaded
    engine knows them; `create_engine` then checks them."""

    engine_options: frozenset[str] = frozenset()
    """Those of `config.ENGINE_OPTIONS` that the backend honours."""

    reads_weights: bool = True
    """Whether the weights of a model of a hub are downloaded; a backend whose model is
    elsewhere needs its tokenizer and configuration alone."""

    option_reasons: Mapping[str, str] = MappingProxyType({})
    """Why the backend does not honour an engine option, for those that a user would
    expect."""

    @property
    def server_options(self) -> Mapping[str, Any]:
        """Backend options that a server sets where its user gives none.

        An engine in the process of a busy server shares Python's lock with it.
        """
        return MappingProxyType({})

    @property
    def waivers(self) -> Mapping[str, str]:
        """Numbers of the clauses that the engines break, each with the reason.

        `unillm conformance` expects these clauses to fail, and prints the reasons; one
        that is `Sometimes` may also pass. The property may import the engine.
        """
        return MappingProxyType({})

    capabilities: Capabilities = Capabilities()
    """How the engines honour each field. `Engine.capabilities` takes precedence."""

    @abc.abstractmethod
    def availability(self) -> Availability:
        """Return whether the backend can run on this machine.

        Looks for packages and devices without importing the engine.
        """

    def refusal(self, config: EngineConfig) -> str | None:
        """Return why the backend cannot serve a model; `None` if it can.

        ``backend="auto"`` then takes the next backend.
        """
        del config
        return None

    def memory_needs(self, config: EngineConfig) -> MemoryNeeds:
        """Return the memory that a model takes on each device.

        Works without the engine. The default reads the model's files; a backend whose
        engine takes more overrides it.

        Raises:
            ModelError: The model cannot be read, or its kind is unknown.
        """
        # The one import of another package at run time; it imports no contract.
        from ..model.memory import memory_needs

        num_devices = config.tensor_parallel_size * config.pipeline_parallel_size
        return memory_needs(config.path, dtype=config.dtype).sharded(num_devices)

    def default_num_seqs(self, config: EngineConfig, *, device: str) -> int | None:
        """Return `max_num_seqs` where the caller leaves it open and the memory allows.

        `unillm plan` shows it. Works without the engine. `None` if only the engine or
        `build_spec` knows.

        Args:
            config: The configuration.
            device: "cpu" or "cuda".
        """
        del config, device
        return None

    def examine(self, config: EngineConfig) -> Iterator[Finding]:
        """Load the model and check the backend's assumptions on the real engine.

        For an engine that the backend's authors could not run on every machine. The
        default checks nothing.

        Raises:
            UnillmError: As `create_engine` does.
        """
        del config
        return iter(())

    def build_spec(self, config: EngineConfig) -> BuildSpec | None:
        """Return what must be built for a configuration; `None` if nothing must be.

        Works without the engine. A value that only the engine or a device knows is
        `None` in the spec, which can then be planned but not built. Fills in options
        that the user left open, so the same configuration always has the same spec.

        Raises:
            ConfigError: The backend does not know an option's value.
            ModelError: The model cannot be read.
        """
        del config
        return None

    def build(self, spec: BuildSpec, target: Path, progress: Progress) -> None:
        """Convert or compile an engine into an empty directory.

        `ArtifactStore.obtain` calls it, moves a finished engine to its place, checks it
        before each load and removes an unfinished one. The method reads nothing but the
        spec and the model, so the spec's key identifies the result.

        Args:
            spec: From `build_spec`.
            target: The directory. It may receive subdirectories, but no links.
            progress: Called with each stage of the build.
        """
        raise NotImplementedError(f"the backend {self.name!r} builds nothing")

    def remark(self, config: EngineConfig) -> str | None:
        """Return a sentence about how the backend would serve a model, or `None`.

        `unillm inspect` shows it, and a created engine logs the same sentence.
        """
        del config
        return None

    @abc.abstractmethod
    def create_engine(self, config: EngineConfig) -> Engine:
        """Load the model and return an engine that is ready for requests.

        A generator calls it once.

        Raises:
            ConfigError: The backend does not know an option's value.
            ModelError: The model cannot be loaded.
            BackendUnavailableError: The backend cannot run on this machine after all.
            EngineOutOfMemoryError: The model or its cache does not fit.
        """
