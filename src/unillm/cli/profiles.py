# SPDX-License-Identifier: Apache-2.0

"""Options that the user's settings file has, as defaults of a command's own.

An option of the command line goes before the profile, the profile before the file's
``defaults``, and these before the command's own default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ..errors import ConfigError, nearest_name
from ..settings import Settings, read_settings, settings_file
from .reporting import SAID, say_warning

VARIABLE = "UNILLM_PROFILE"
"""Environment variable with the profile of commands that name none."""

_HINT = "the settings file"
_NOT_IN_A_FILE = {"debug", "help", "profile"}
_PAIRS = {"KEY=VALUE", "NAME=PATH"}
"""Metavars of options that take pairs, which a file writes as an object."""


def use_settings(context: typer.Context, profile: str | None) -> str | None:
    """Make the file's options the defaults of the command; return *profile*.

    Raises:
        typer.BadParameter: There is no such profile, or the file has an unknown option.
    """
    if context.resilient_parsing:
        return profile
    try:
        settings = read_settings()
    except ConfigError as error:
        if profile is not None:
            raise typer.BadParameter(str(error)) from error
        context.meta[SAID] = f"{error} It has no effect."
        say_warning(context.meta[SAID])
        return profile
    given = _options(settings, profile)
    own = dict(_names(context.command))
    everywhere = {name for each in _commands(context) for name, _ in _names(each)}
    for name in given.keys() - everywhere:
        raise typer.BadParameter(
            f"{settings_file()} has the option {name!r}, which no command has."
            f"{nearest_name(name, everywhere)}",
            param_hint=_HINT,
        )
    context.default_map = {
        own[name].name: _checked(context, own[name], name, value)
        for name, value in given.items()
        if name in own and value is not None
    }
    return profile


Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        envvar=VARIABLE,
        show_envvar=False,
        is_eager=True,
        callback=use_settings,
        help="Take the options of this profile of the settings file. Default: "
        f"{VARIABLE} of the environment.",
    ),
]


def _options(settings: Settings, profile: str | None) -> Mapping[str, Any]:
    found = dict(settings.defaults)
    if profile is not None:
        known = settings.profiles
        if profile not in known:
            raise typer.BadParameter(
                f"{settings_file()} has no profile {profile!r}."
                f"{nearest_name(profile, known)} It has: "
                f"{', '.join(sorted(known)) or 'none'}."
            )
        found |= known[profile]
    return {name.replace("-", "_"): value for name, value in found.items()}


def _commands(context: typer.Context) -> Iterator[Any]:
    """Yield all commands of the program."""
    waiting = [context.find_root().command]
    while waiting:
        each: Any = waiting.pop()
        yield each
        waiting += getattr(each, "commands", {}).values()


def _names(command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the options of a command by their long names, and its model."""
    for parameter in command.params:
        for flag in parameter.opts:
            name = flag.removeprefix("--").replace("-", "_")
            is_long = flag.startswith("--") or name == "model"
            if is_long and name not in _NOT_IN_A_FILE:
                yield name, parameter


def _checked(context: typer.Context, parameter: Any, name: str, value: Any) -> Any:
    """Return a value of the file as the command line would give it, if it can be one.

    Raises:
        typer.BadParameter: It cannot; Typer's own error would not name the file.
    """
    given = _as_given(parameter, value)
    try:
        parameter.process_value(context, given)
    except typer.BadParameter as error:
        raise typer.BadParameter(
            f"{settings_file()} has {json.dumps(value)} for {name!r}: {error.message}",
            param_hint=_HINT,
        ) from error
    return given


def _as_given(parameter: Any, value: Any) -> Any:
    """Return a value of the file as the command line would give it."""
    several = getattr(parameter, "multiple", False)
    if isinstance(value, Mapping):
        if parameter.metavar in _PAIRS:
            return [f"{key}={_as_text(each)}" for key, each in value.items()]
        value = json.dumps(value)
    if not several:
        return value
    return list(value) if isinstance(value, list) else [value]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
