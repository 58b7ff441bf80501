# SPDX-License-Identifier: Apache-2.0

"""Plugins: listed by entry point without an import, imported by name.

A broken plugin disturbs only callers that name it. The embedded backend is an entry in
a table, and from there on a plugin like any other.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from . import distributions, hookspecs
from .engines.backend import API_VERSION, Availability, Backend
from .errors import BackendNotFoundError, PluginError, nearest_name
from .plugin_checks import (
    blaming,
    check_availability,
    check_backend,
    check_entry_point,
    check_refusal,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .config import EngineConfig

PLUGINS_VARIABLE = "UNILLM_PLUGINS"
"""Environment variable with the names of the installed plugins that may be loaded, with
commas between. Unset, all may; empty, none. The embedded backend stays."""

EMBEDDED = {"transformers": "unillm.embedded"}
"""Backends that come with the core: name to module."""

KNOWN = {name: distributions.plugin(name) for name in distributions.BACKENDS}
"""Backends that are distributions of their own: name to distribution."""

OLDEST_API = (1, 0)
"""The oldest `API_VERSION` whose backends are still served."""

PLUGGED: dict[str, object] = {}
"""Plugins without a distribution, while `unillm.testing.backends.plugged` is open: name
to the object that implements the hook."""


@attrs.frozen(kw_only=True)
class BackendStatus:
    """One line of `unillm.backends`."""

    __module__ = "unillm"

    name: str
    available: bool
    description: str = ""
    distribution: str
    """Name and version of the installed distribution."""
    auto_rank: int | None = None
    """Rank for ``backend="auto"``, lower is sooner; `None` excludes the backend."""
    reason: str = ""
    """Why the backend is not available."""
    remedy: str | None = None
    """The command that makes it available."""
    python: str | None = None
    """Interpreter of the environment that has it; `None` for this one."""


class PluginRegistry:
    """Lists the installed backends, and loads them by name."""

    def __init__(self) -> None:
        distributions.warn_of_foreign()
        found = _entry_points()
        allowed = os.environ.get(PLUGINS_VARIABLE)
        names = None if allowed is None else _names(allowed)
        self._entry_points = {
            name: entries
            for name, entries in found.items()
            if names is None or name.lower() in names
        }
        self.left_out = sorted(found.keys() - self._entry_points.keys())
        """Installed plugins that `PLUGINS_VARIABLE` does not name."""
        self._plugins: dict[str, pluggy.PluginManager] = {}

    def names(self) -> list[str]:
        """Return the names of all installed backends, without importing any."""
        return sorted({*EMBEDDED, *PLUGGED, *self._entry_points})

    def load(self, name: str) -> Backend:
        """Import the plugin called *name* and create its backend.

        Raises:
            BackendNotFoundError: No installed plugin has the name.
            PluginError: The plugin cannot be imported, breaks a rule of the contract,
                was written for a version of it that is not served, or shares its name
                with another plugin.
        """
        if name not in self.names():
            raise self._not_found(name)
        plugin = self.distribution(name)
        check_entry_point(plugin, name)
        if name not in self._plugins:
            self._plugins[name] = self._import(name, plugin)
        # Its own manager: no plugin answers for the name of another one.
        create = self._plugins[name].hook.unillm_create_backend
        with blaming(plugin, f"creating the backend {name!r}"):
            created: Any = create(name=name)
        backend = check_backend(plugin, name, created)
        self._check_api(name, backend.api_version)
        return backend

    def availability(self, backend: Backend) -> Availability:
        """Return whether a backend can run here.

        Raises:
            PluginError: The plugin raises, or returns something else.
        """
        return check_availability(self.distribution(backend.name), backend)

    def refusal(self, backend: Backend, config: EngineConfig) -> str | None:
        """Return why a backend cannot serve a model; `None` if it can.

        Raises:
            PluginError: The plugin raises, or returns something else.
            ModelError: The model cannot be read.
        """
        plugin = self.distribution(backend.name)
        act = f"saying whether the backend {backend.name!r} can serve {config.model!r}"
        with blaming(plugin, act, passes=True):
            found = backend.refusal(config)
        return check_refusal(plugin, backend, found)

    def status(self, name: str) -> BackendStatus:
        """Return whether a backend can run here; never raises."""
        try:
            backend = self.load(name)
            availability = self.availability(backend)
        except PluginError as error:
            return BackendStatus(
                name=name,
                available=False,
                distribution=self.distribution(name),
                reason=str(error),
            )
        return BackendStatus(
            name=name,
            available=availability.available,
            description=backend.description,
            distribution=self.distribution(name),
            auto_rank=backend.auto_rank,
            reason=availability.reason,
            remedy=availability.remedy,
        )

    def distribution(self, name: str) -> str:
        """Return the distribution of a backend, as ``"name version"``."""
        if name in EMBEDDED and name not in self._entry_points:
            return "unillm (embedded)"
        if name in PLUGGED:
            return "not installed, plugged in"
        entries = self._entry_points.get(name, [])
        return ", ".join(map(_distribution, entries))

    def by_rank(self) -> list[Backend]:
        """Return the backends that ``backend="auto"`` may take, in its order.

        A plugin that cannot be loaded is left out; `unillm.backends` says why.
        """
        ranked = [
            (backend.auto_rank, backend)
            for backend in self.loadable()
            if backend.auto_rank is not None
        ]
        # The sort is stable: backends of one rank stay in the order of their names.
        return [backend for _, backend in sorted(ranked, key=itemgetter(0))]

    def loadable(self) -> list[Backend]:
        """Return all backends that can be loaded, by name."""
        found = []
        for name in self.names():
            with contextlib.suppress(PluginError):
                found.append(self.load(name))
        return found

    def missing(self) -> list[BackendStatus]:
        """Return the known backends that are not installed or are left out."""
        left_out = [
            BackendStatus(
                name=name,
                available=False,
                distribution=KNOWN.get(name, "installed"),
                reason=_left_out(name),
                remedy=f"unset {PLUGINS_VARIABLE}",
            )
            for name in self.left_out
        ]
        return left_out + [
            BackendStatus(
                name=name,
                available=False,
                distribution=KNOWN[name],
                reason="its plugin is not installed",
                remedy=distributions.install_plugin(name),
            )
            for name in sorted(KNOWN.keys() - {*self.names(), *self.left_out})
        ]

    def _not_found(self, name: str) -> BackendNotFoundError:
        installed = self.names()
        others = {each.lower(): each for each in installed}
        if name in others:  # an entry point that is not in lower case
            check_entry_point(self.distribution(others[name]), others[name])
        if name in self.left_out:
            advice = f" {_left_out(name)}."
        elif name in KNOWN:
            advice = f" Install it with: {distributions.install_plugin(name)}"
        else:
            close = nearest_name(name, {*installed, *KNOWN})
            advice = f"{close} `unillm backends` shows them all."
        return BackendNotFoundError(
            f"No backend is called {name!r}. Installed: {', '.join(installed)}."
            f"{advice}",
            name=name,
            installed=installed,
        )

    def _import(self, name: str, plugin: str) -> pluggy.PluginManager:
        """Import a plugin and check its hooks."""
        entries = self._entry_points.get(name, [])
        if len(entries) > 1 or (entries and name in EMBEDDED):
            raise PluginError(
                f"Several plugins provide the backend {name!r}: {plugin}. Uninstall "
                "all but one."
            )
        with blaming(plugin, f"being imported for the backend {name!r}"):
            if entries:
                module = entries[0].load()
            elif name in PLUGGED:
                module = PLUGGED[name]
            else:
                module = importlib.import_module(EMBEDDED[name])
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        with blaming(plugin, f"being asked for the hooks of the backend {name!r}"):
            manager.register(module, name)
            manager.check_pending()
        if not manager.hook.unillm_create_backend.get_hookimpls():
            raise PluginError(
                f"The plugin {plugin} has no hook for the backend {name!r}; decorate "
                "its function unillm_create_backend(name) with @hookimpl of "
                "unillm.hookspecs."
            )
        return manager

    def _check_api(self, name: str, version: tuple[int, int]) -> None:
        if OLDEST_API <= version <= API_VERSION:
            return
        serves = f"version {_dotted(API_VERSION)}"
        if OLDEST_API < API_VERSION:
            serves = f"versions {_dotted(OLDEST_API)} to {_dotted(API_VERSION)}"
        remedy = (
            "Upgrade unillm, or install an older release of the plugin"
            if version > API_VERSION
            else "Upgrade the plugin, or install an older release of unillm"
        )
        raise PluginError(
            f"The plugin {self.distribution(name)} was written for version "
            f"{_dotted(version)} of unillm.backend, and this unillm serves {serves}. "
            f"{remedy}."
        )


def _entry_points() -> dict[str, list[EntryPoint]]:
    """Return the installed plugins by backend name, each once."""
    from importlib.metadata import entry_points  # 30 ms that `import unillm` saves

    try:
        entries = list(entry_points(group=hookspecs.PROJECT))
    except Exception:  # noqa: BLE001 - an unreadable file of any distribution
        entries = list(_readable_entry_points())
    found: dict[str, list[EntryPoint]] = {}
    for entry in entries:
        same = found.setdefault(entry.name, [])
        if entry.value not in [other.value for other in same]:
            same.append(entry)
    return found


def _readable_entry_points() -> Iterator[EntryPoint]:
    """Yield the plugins of the distributions whose entry points can be read."""
    from importlib.metadata import distributions

    for each in distributions():
        with contextlib.suppress(Exception):
            yield from each.entry_points.select(group=hookspecs.PROJECT)


def _distribution(entry: EntryPoint) -> str:
    """Return name and version of a plugin's distribution, or the module's name."""
    with contextlib.suppress(Exception):  # its metadata are missing or unreadable
        if entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return f"{entry.value} (no metadata)"


def _names(text: str) -> set[str]:
    return {name.strip().lower() for name in text.split(",")}


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _left_out(name: str) -> str:
    value = os.environ.get(PLUGINS_VARIABLE)
    return f"{PLUGINS_VARIABLE}={value!r} does not name the installed plugin {name!r}"
