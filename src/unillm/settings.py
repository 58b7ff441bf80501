# SPDX-License-Identifier: Apache-2.0

"""The user's settings file: environments, and options of the command line.

`unillm env` and people write it::

    $XDG_CONFIG_HOME/unillm/settings.json
    {
      "environments": {"trt": {"python": "/opt/trt/bin/python"}},
      "defaults": {"backend": "vllm"},
      "profiles": {"long": {"model": "Qwen/Qwen3-8B", "max_model_len": 32768}}
    }

A program that cannot read it says so and goes on without it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import attrs
import msgspec

from .errors import ConfigError


class SettingsWarning(UserWarning):
    """The user's settings file cannot be read, so it has no effect."""


@attrs.frozen(kw_only=True)
class Environment:
    """An interpreter, and the backends that it had when it was last checked."""

    python: str
    backends: tuple[str, ...] = ()


class Settings(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Content of the file."""

    environments: dict[str, Environment] = {}
    """Interpreters with other engines, by name."""
    defaults: dict[str, Any] = {}
    """Options of every command, by their long names."""
    profiles: dict[str, dict[str, Any]] = {}
    """Options that ``--profile`` adds to the defaults, by the name of the profile."""


def settings_file() -> Path:
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
    return folder / "unillm" / "settings.json"


def read_settings() -> Settings:
    """Return the content of the file; nothing where there is none.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = settings_file()
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):  # a home such as /dev/null
        return Settings()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return msgspec.json.decode(text, type=Settings)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a file of settings: {error}. Mend it, or remove it and add "
            "the environments again with `unillm env add`."
        ) from error


def settings_or_warning() -> Settings:
    """Return the content of the file; a file that cannot be read is only warned of."""
    try:
        return read_settings()
    except ConfigError as error:
        warnings.warn(f"{error} It has no effect.", SettingsWarning, stacklevel=2)
        return Settings()


def write_settings(settings: Settings) -> None:
    """Replace the file.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = settings_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"
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
