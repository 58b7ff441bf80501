# SPDX-License-Identifier: Apache-2.0

"""`resolve`: find a model, check its options and choose its backend, once.

`Generator`, `LLM`, `inspect_model`, `plan_engine`, `prepare_engine`, ``unillm doctor``
and the contract suite use this module, so a model is downloaded once, its options are
checked in one way, and one registry chooses the backend.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

from .config import ENGINE_OPTIONS, EngineConfig
from .engines.backend import Backend
from .engines.base import Engine
from .errors import BackendUnavailableError, ConfigError, PluginError, nearest_name
from .model.adapters import check_adapter_files
from .model.directory import check_directory
from .model.find import BUNDLED, find_model
from .openmp import share_cores
from .plugin_checks import check_engine
from .plugins import PluginRegistry
from .process.registry import BackendRegistry, in_a_process


@attrs.frozen(kw_only=True)
class Resolved:
    """A model with its options, and the backend that serves it."""

    config: EngineConfig
    backend: Backend
    registry: PluginRegistry = attrs.field(repr=False)
    """The registry that the backend comes from."""

    @property
    def distribution(self) -> str:
        """Name and version of the distribution that provides the backend."""
        return self.registry.distribution(self.backend.name)

    def __str__(self) -> str:
        """Return the model, the backend and who chose it, in words."""
        who = self.config.source_of("backend").value
        name, distribution = self.backend.name, self.distribution
        return f"{self.config.model} on {name} ({distribution}, chosen by {who})"

    def create_engine(self) -> Engine:
        """Load the model and return the backend's engine.

        Raises:
            PluginError: The backend returns something else than an engine.
        """
        return check_engine(self.distribution, self.backend.create_engine(self.config))

    def with_options(self, **options: Any) -> Resolved:
        """Return the same model and backend with further options.

        Raises:
            ConfigError: An option has an invalid value, or the backend refuses it.
        """
        config = self.config.with_options(**options)
        _check_engine_options(self.backend, config)
        _check_backend_options(self.backend, config)
        return attrs.evolve(self, config=config)


def resolve(
    model: str | os.PathLike[str],
    backend: str | None = None,
    *,
    registry: PluginRegistry | None = None,
    runnable: bool = True,
    **options: Any,
) -> Resolved:
    """Find a model, check its options and choose the backend.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Name of the backend; `None` and "auto" leave the choice to the
            environment, then to `choose_backend`.
        registry: Installed backends; `None` looks for them.
        runnable: Whether a named backend must be able to run here, with these engine
            options. `plan_engine` needs only its plugin.
        options: Other fields of `EngineConfig`.

    Raises:
        ConfigError: An option has an invalid value, or the backend refuses it.
        ModelNotFoundError: The model does not exist.
        ModelLoadError: A file of the model is not what its name says.
        BackendNotFoundError: No backend has the name.
        BackendUnavailableError: The backend cannot run here.
    """
    share_cores()  # before a tokenizer or a backend loads torch
    config = _options(model, backend, **options)
    registry = registry or BackendRegistry(config.python)
    config = _located(config, weights=_reads_weights(registry, config))
    if runnable or config.backend == "auto":
        chosen = choose_backend(registry, config)
    else:
        chosen = registry.load(config.backend)
    _check_backend_options(chosen, config)
    if config.data_parallel_size > 1:
        chosen = in_a_process(chosen)
    return Resolved(config=config, backend=chosen, registry=registry)


def configure(
    model: str | os.PathLike[str], backend: str | None = None, **options: Any
) -> EngineConfig:
    """Check the options and find the model, without choosing a backend.

    Raises:
        ConfigError: An option has an invalid value.
        ModelNotFoundError: The model does not exist.
        ModelLoadError: A file of the model is not what its name says.
    """
    return _located(_options(model, backend, **options))


def _options(
    model: str | os.PathLike[str], backend: str | None, **options: Any
) -> EngineConfig:
    """Check the options alone: an invalid one is refused before a download."""
    if not isinstance(model, (str, os.PathLike)):
        raise ConfigError(f"model must be a name or a path, got {model!r}.")
    name = os.fspath(model)
    return EngineConfig.create(model=name, path=Path(name), backend=backend, **options)


def _reads_weights(registry: PluginRegistry, config: EngineConfig) -> bool:
    """Whether a model of a hub is wanted with its weights."""
    if is_local(config.model) or config.backend == "auto":
        return True
    return registry.load(config.backend).reads_weights


def _located(config: EngineConfig, *, weights: bool = True) -> EngineConfig:
    path = find_model(config.model, revision=config.revision, weights=weights)
    check_directory(path)
    check_adapter_files(path)
    return attrs.evolve(config, path=path)


def is_local(model: object) -> bool:
    """Whether a model is bundled or a directory, so that no hub is asked for it."""
    if not isinstance(model, (str, os.PathLike)):
        return False  # `configure` refuses it
    try:
        return os.fspath(model) in BUNDLED or Path(os.path.expanduser(model)).is_dir()
    except OSError:  # no name of a file, as `find_model` says
        return False


def choose_backend(registry: PluginRegistry, config: EngineConfig) -> Backend:
    """Return the backend that *config* names, or the best one if it says "auto".

    "auto" takes the first backend, in the order of `Backend.auto_rank`, that can run
    here, honours the engine options and accepts the model.

    Raises:
        BackendNotFoundError: No backend has the name.
        BackendUnavailableError: The named backend cannot run here, or with "auto" no
            backend can.
        ConfigError: The named backend does not honour an engine option.
    """
    if config.backend != "auto":
        backend = registry.load(config.backend)
        availability = registry.availability(backend)
        if not availability.available:
            remedy = f" Run: {availability.remedy}" if availability.remedy else ""
            raise BackendUnavailableError(
                f"The backend {backend.name!r} cannot run here: "
                f"{availability.reason}.{remedy}",
                name=backend.name,
                remedy=availability.remedy,
            )
        _check_engine_options(backend, config)
        return backend
    reasons = []
    for backend in registry.by_rank():
        try:
            availability = registry.availability(backend)
            refusal = (
                availability.reason
                or _option_refusal(backend, config)
                or registry.refusal(backend, config)
            )
        except PluginError as error:
            refusal = str(error)
        else:
            if availability.available and not refusal:
                return backend
        reasons.append(f"  {backend.name}: {refusal}")
    raise BackendUnavailableError(
        f"No backend can serve {config.model!r} here:\n" + "\n".join(reasons),
        name="auto",
    )


def _option_refusal(backend: Backend, config: EngineConfig) -> str | None:
    """Say which given engine option a backend does not honour, or return `None`."""
    given = ENGINE_OPTIONS & config.sources.keys()
    for name in sorted(given - backend.engine_options):
        reason = backend.option_reasons.get(name, "the engine has no such option")
        return (
            f"it does not take {name}={getattr(config, name)!r}: {reason}. Leave it "
            "out, or choose a backend that takes it"
        )
    return None


def _check_engine_options(backend: Backend, config: EngineConfig) -> None:
    if refusal := _option_refusal(backend, config):
        raise ConfigError(f"The backend {backend.name!r} cannot be used: {refusal}.")


def _check_backend_options(backend: Backend, config: EngineConfig) -> None:
    known = backend.option_names
    if known is None:
        return  # `create_engine` checks them
    for name in config.backend_options:
        if name not in known:
            takes = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"The backend {backend.name!r} has no option {name!r}."
                f"{nearest_name(name, known)} It takes: {takes}."
            )
