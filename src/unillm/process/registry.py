# SPDX-License-Identifier: Apache-2.0

"""`BackendRegistry`: the backends of this interpreter and of the others that it knows.

A named backend is looked for in this order: the interpreter that the caller names, the
one of the backend's variable, this interpreter if the backend can run in it, and the
environments of the user's file.
"""

from __future__ import annotations

import contextlib
import os
import sys

import attrs
from typing_extensions import override

from ..engines.backend import Backend
from ..errors import UnillmError
from ..plugins import KNOWN, BackendStatus, PluginRegistry
from ..settings import settings_or_warning
from .backend import ProcessBackend, describe, list_backends
from .environments import find_python, python_of_variable


class BackendRegistry(PluginRegistry):
    """Lists backends and loads them by name, wherever they are installed.

    Args:
        python: Interpreter whose backends alone count: a path, or the name of an
            environment. `None` for this one and those that it knows.

    Raises:
        ConfigError: There is no such environment, or the user's file cannot be read to
            look for it.
    """

    def __init__(self, python: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self._python = None if python is None else find_python(python)
        self._found: dict[tuple[str, str], ProcessBackend] = {}
        self._listed = False
        self._known = {} if python is not None else settings_or_warning().environments

    @override
    def names(self) -> list[str]:
        if self._python is not None:
            return sorted(each.name for each in self._list(self._python))
        elsewhere = {name for each in self._known.values() for name in each.backends}
        named = {name for name in KNOWN if python_of_variable(name) is not None}
        return sorted({*super().names(), *elsewhere, *named})

    @override
    def load(self, name: str) -> Backend:
        """Return the backend called *name*.

        Raises:
            BackendNotFoundError: It is not installed anywhere.
            BackendUnavailableError: Its interpreter cannot be run or has no unillm.
            PluginError: Its plugin cannot be imported or breaks a rule.
        """
        python = self._python or python_of_variable(name)
        if python is not None:
            return self._load_from(python, name)
        others = [each.python for each in self._known.values() if name in each.backends]
        if name not in super().names() and others:
            return self._load_from(others[0], name)
        backend = super().load(name)
        if others and not self.availability(backend).available:
            return self._load_from(others[0], name)
        return backend

    @override
    def distribution(self, name: str) -> str:
        for backend in self._found.values():
            if backend.name == name:
                return f"{backend.distribution} in {backend.python}"
        return super().distribution(name)

    @override
    def status(self, name: str) -> BackendStatus:
        try:
            status = super().status(name)
        except UnillmError as error:  # its interpreter cannot be run
            return BackendStatus(
                name=name, available=False, distribution="unknown", reason=str(error)
            )
        for backend in self._found.values():
            if backend.name == name:
                return attrs.evolve(
                    status, python=backend.python, distribution=backend.distribution
                )
        return status

    @override
    def loadable(self) -> list[Backend]:
        found = []
        for name in self.names():
            with contextlib.suppress(UnillmError):
                found.append(self.load(name))
        return found

    def _load_from(self, python: str, name: str) -> ProcessBackend:
        key = (python, name)
        if key not in self._found:
            self._found[key] = ProcessBackend(python, describe(python, name))
        return self._found[key]

    def _list(self, python: str) -> list[ProcessBackend]:
        if not self._listed:
            for facts in list_backends(python):
                self._found[python, facts.name] = ProcessBackend(python, facts)
            self._listed = True
        return list(self._found.values())


def in_a_process(backend: Backend) -> ProcessBackend:
    """Return a backend whose engines run in processes, of this interpreter by default.

    Raises:
        BackendNotFoundError: A new process of this interpreter does not find it.
    """
    if isinstance(backend, ProcessBackend):
        return backend
    return ProcessBackend(sys.executable, describe(sys.executable, backend.name))


def backends(*, python: str | os.PathLike[str] | None = None) -> list[BackendStatus]:
    """Return every known backend: available, or why not and what to do.

    Imports the installed plugins, which are light, and no engine.

    Args:
        python: Interpreter whose backends are listed: a path, or the name of an
            environment. `None` for this one and those that it knows.
    """
    registry = BackendRegistry(python)
    found = [registry.status(name) for name in registry.names()]
    return found if python is not None else found + registry.missing()
