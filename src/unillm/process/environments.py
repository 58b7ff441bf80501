# SPDX-License-Identifier: Apache-2.0

"""Environments: interpreters with engines that this one does not have, by name.

The user's settings file lists them. A variable such as ``UNILLM_PYTHON_TENSORRT_LLM``
names the interpreter of one backend and goes before the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ..config import as_python
from ..errors import ConfigError, nearest_name
from ..settings import Environment, read_settings, write_settings
from .child import interpreter

VARIABLE = "UNILLM_PYTHON_"
"""Begins the name of the variable with the interpreter of a backend."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def variable_of(backend: str) -> str:
    """Return the name of the variable with the interpreter of a backend."""
    return VARIABLE + re.sub(r"\W", "_", backend).upper()


def python_of_variable(backend: str) -> str | None:
    """Return the interpreter that the environment names for a backend."""
    found = os.environ.get(variable_of(backend))
    return interpreter(found) if found else None


def environments() -> Mapping[str, Environment]:
    """Return the environments of the user's file, by name.

    Raises:
        ConfigError: The file cannot be read.
    """
    return read_settings().environments


def find_python(value: str | os.PathLike[str]) -> str:
    """Return the interpreter that a user names: a path, or a name of the file.

    Raises:
        ConfigError: It is neither, or the file cannot be read.
    """
    text = as_python(value)
    if os.sep in text or text.startswith("~"):
        return interpreter(text)
    known = environments()
    if text in known:
        return known[text].python
    raise ConfigError(
        f"python={text!r} is neither a path nor the name of an environment."
        f"{nearest_name(text, known)} Known: {', '.join(sorted(known)) or 'none'}. Add "
        f"it with: unillm env add {text} PATH"
    )


def save(name: str, environment: Environment) -> None:
    """Add an environment to the file, or replace it.

    Raises:
        ConfigError: The name is not one, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name an environment: use letters, digits, and . _ -"
        )
    settings = read_settings()
    settings.environments[name] = environment
    write_settings(settings)


def remove(name: str) -> None:
    """Take an environment out of the file.

    Raises:
        ConfigError: No environment has the name.
    """
    settings = read_settings()
    known = settings.environments
    if known.pop(name, None) is None:
        raise ConfigError(
            f"No environment is called {name!r}.{nearest_name(name, known)}"
        )
    write_settings(settings)
