# SPDX-License-Identifier: Apache-2.0

"""Plugins: listed by entry point without an import, imported by name.

A plugin that fails to import disturbs only callers that name it. The embedded backend
is an entry in a table, and from there on a plugin like any other.
"""

from __future__ import annotations

import contextlib
import importlib
from operator import itemgetter
from typing import TYPE_CHECKING

import attrs
import pluggy

from . import hookspecs
from .engines.backend import CONTRACT_VERSION, Backend
from .errors import BackendNotFoundError, PluginError, nearest_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

EMBEDDED = {"transformers": "unillm.embedded"}
"""Backends that come with the core: name to module."""

KNOWN = {
    "ctranslate2": "unillm-ctranslate2",
    "remote": "unillm-remote",
    "tensorrt-llm": "unillm-tensorrt-llm",
    "vllm": "unillm-vllm",
}
"""Backends that are distributions of their own: name to distribution."""

OLDEST_CONTRACT = 1
"""The oldest version of the contract whose backends are still served."""

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


class PluginRegistry:
    """Lists the installed backends, and loads them by name."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._entry_points = _entry_points()

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
        if not self._manager.has_plugin(name):
            self._register(name)
        backend = self._manager.hook.unillm_create_backend(name=name)
        if not isinstance(backend, Backend):
            raise PluginError(
                f"The plugin {self.distribution(name)} returned {backend!r} for the "
                f"backend {name!r}; unillm_create_backend must return a Backend."
            )
        self._check_contract(name, backend.contract_version)
        return backend

    def status(self, name: str) -> BackendStatus:
        """Return whether a backend can run here; never raises."""
        try:
            backend = self.load(name)
            availability = backend.availability()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
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
        sources = [entry.dist for entry in self._entry_points[name] if entry.dist]
        return ", ".join(f"{dist.name} {dist.version}" for dist in sources)

    def by_rank(self) -> list[Backend]:
        """Return the backends that ``backend="auto"`` may take, in its order.

        A plugin that cannot be loaded is left out.
        """
        ranked = []
        for name in self.names():
            with contextlib.suppress(PluginError):
                backend = self.load(name)
                if backend.auto_rank is not None:
                    ranked.append((backend.auto_rank, backend))
        # The sort is stable: backends of one rank stay in the order of their names.
        return [backend for _, backend in sorted(ranked, key=itemgetter(0))]

    def _not_found(self, name: str) -> BackendNotFoundError:
        installed = self.names()
        if name in KNOWN:
            advice = f" Install it with: {_install(name)}"
        else:
            close = nearest_name(name, {*installed, *KNOWN})
            advice = f"{close} `unillm backends` shows them all."
        return BackendNotFoundError(
            f"No backend is called {name!r}. Installed: {', '.join(installed)}."
            f"{advice}",
            name=name,
            installed=installed,
        )

    def _register(self, name: str) -> None:
        """Import a plugin and check its hooks."""
        entries = self._entry_points.get(name, [])
        if len(entries) > 1 or (entries and name in EMBEDDED):
            raise PluginError(
                f"Several plugins provide the backend {name!r}: "
                f"{self.distribution(name)}. Uninstall all but one."
            )
        try:
            if entries:
                module = entries[0].load()
            elif name in PLUGGED:
                module = PLUGGED[name]
            else:
                module = importlib.import_module(EMBEDDED[name])
        except Exception as error:
            raise PluginError(
                f"The plugin {self.distribution(name)} for the backend {name!r} cannot "
                f"be imported: {type(error).__name__}: {error}. Reinstall it, or "
                "choose another backend."
            ) from error
        self._manager.register(module, name)
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=name)
            raise PluginError(
                f"The plugin {self.distribution(name)} implements a hook that does "
                f"not exist: {error}"
            ) from error

    def _check_contract(self, name: str, version: int) -> None:
        if OLDEST_CONTRACT <= version <= CONTRACT_VERSION:
            return
        serves = f"version {CONTRACT_VERSION}"
        if OLDEST_CONTRACT < CONTRACT_VERSION:
            serves = f"versions {OLDEST_CONTRACT} to {CONTRACT_VERSION}"
        remedy = (
            "Upgrade unillm, or install an older release of the plugin"
            if version > CONTRACT_VERSION
            else "Upgrade the plugin, or install an older release of unillm"
        )
        raise PluginError(
            f"The plugin {self.distribution(name)} was written for version {version} "
            f"of the contract of backends, and this unillm serves {serves}. {remedy}."
        )


def _entry_points() -> dict[str, list[EntryPoint]]:
    """Return the installed plugins by backend name, each once."""
    from importlib.metadata import entry_points  # 30 ms that `import unillm` saves

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=hookspecs.PROJECT):
        same = found.setdefault(entry.name, [])
        if entry.value not in [other.value for other in same]:
            same.append(entry)
    return found


def backends() -> list[BackendStatus]:
    """Return every known backend: available, or why not and what to do.

    Imports the installed plugins, which are light, and no engine.
    """
    registry = PluginRegistry()
    names = registry.names()
    missing = [
        BackendStatus(
            name=name,
            available=False,
            distribution=KNOWN[name],
            reason="its plugin is not installed",
            remedy=_install(name),
        )
        for name in sorted(KNOWN.keys() - set(names))
    ]
    return [registry.status(name) for name in names] + missing


def _install(name: str) -> str:
    return f"pip install {KNOWN[name]}"
