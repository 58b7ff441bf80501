# SPDX-License-Identifier: Apache-2.0

"""Environments: interpreters with engines that this one does not have, by name.

A file of the user's lists them::

    $XDG_CONFIG_HOME/unillm/environments.json
    {"trt": {"python": "/opt/trt/bin/python", "backends": ["tensorrt-llm"]}}

A variable such as ``UNILLM_PYTHON_TENSORRT_LLM`` names the interpreter of one backend
and goes before the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs
import msgspec

from ..config import as_python
from ..errors import ConfigError, nearest_name
from .child import interpreter

VARIABLE = "UNILLM_PYTHON_"
"""Begins the name of the variable with the interpreter of a backend."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@attrs.frozen(kw_only=True)
class Environment:
    """An interpreter, and the backends that it had when it was last checked."""

    python: str
    backends: tuple[str, ...] = ()


def variable_of(backend: str) -> str:
    """Return the name of the variable with the interpreter of a backend."""
    return VARIABLE + re.sub(r"\W", "_", backend).upper()


def python_of_variable(backend: str) -> str | None:
    """Return the interpreter that the environment names for a backend."""
    found = os.environ.get(variable_of(backend))
    return interpreter(found) if found else None


def file() -> Path:
    """Return the path of the user's file.

    Raises:
        ConfigError: The user has no home.
    """
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        folder = base if base.is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        raise ConfigError(
            f"The folder of the user's settings cannot be found: {error} Set "
            "XDG_CONFIG_HOME to the path of a folder."
        ) from error
    return folder / "unillm" / "environments.json"


def environments() -> Mapping[str, Environment]:
    """Return the environments of the user's file, by name.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = file()
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):  # a home such as /dev/null
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return msgspec.json.decode(text, type=dict[str, Environment])
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{path} is not a table of environments: {error}. Mend it, or remove it "
            "and add the environments again with `unillm env add`."
        ) from error


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
    _write({**environments(), name: environment})


def remove(name: str) -> None:
    """Take an environment out of the file.

    Raises:
        ConfigError: No environment has the name.
    """
    known = dict(environments())
    if known.pop(name, None) is None:
        raise ConfigError(
            f"No environment is called {name!r}.{nearest_name(name, known)}"
        )
    _write(known)


def _write(known: Mapping[str, Environment]) -> None:
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(known), indent=2) + b"\n"
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as new:
            try:
                new.write(text)
                new.close()
                Path(new.name).replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(new.name).unlink()
                raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
