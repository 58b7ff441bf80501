# SPDX-License-Identifier: Apache-2.0

"""`command`: makes a command of a function, with groups of options and ``--debug``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_type_hints, is_typeddict

import attrs
import typer

from .options import Debug, Option, Without
from .profiles import Profile
from .reporting import reported

_CONTEXT = inspect.Parameter(
    "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)
_DEBUG = inspect.Parameter(
    "debug", inspect.Parameter.KEYWORD_ONLY, annotation=Debug, default=False
)
_PROFILE = inspect.Parameter(
    "profile", inspect.Parameter.KEYWORD_ONLY, annotation=Profile, default=None
)
_Group = Mapping[str, tuple[Any, Option]]
"""Type and `Option` of each key."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return *function* as Typer can register it.

    Each parameter that is a group of options becomes one option for each key, and
    *function* receives a dict of the options that were given. ``--debug`` is added, and
    ``--profile`` to a command with groups; every exception becomes a message and an
    exit code.
    """
    own = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, _Group] = {}
    parameters = [_CONTEXT]
    for name, parameter in own.items():
        if group := _group(parameter.annotation):
            groups[name] = group
            parameters += [_parameter(key, *each) for key, each in group.items()]
        else:
            parameters.append(parameter)
    if groups:
        parameters.append(_PROFILE)
    if "debug" not in own:
        parameters.append(_DEBUG)

    @functools.wraps(function)
    def run(context: typer.Context, *, debug: bool, **values: Any) -> None:
        values.pop("profile", None)  # `use_settings` has read it
        with reported(context, debug=debug):
            for name, group in groups.items():
                values[name] = _given(group, values)
            if "debug" in own:
                values["debug"] = debug
            function(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _group(annotation: Any) -> _Group:
    """Return the keys of a group of options; empty for any other annotation."""
    kind, *marks = get_args(annotation) or (annotation,)
    if not is_typeddict(kind):
        return {}
    [without] = marks or [Without()]
    group = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name not in without.names:
            of_key, option = get_args(hint)
            default = without.defaults.get(name, option.default)
            group[name] = of_key, attrs.evolve(option, default=default)
    return group


def _parameter(key: str, kind: Any, option: Option) -> inspect.Parameter:
    """Return the parameter that Typer makes an option of."""
    info = typer.Option(
        option.flag or f"--{key.replace('_', '-')}",
        help=option.help,
        metavar=option.metavar,
        rich_help_panel=option.panel,
        show_default=option.default is not None,
    )
    if option.read is not None:
        kind = list[str]
    is_flag = kind is bool
    return inspect.Parameter(
        key,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_flag else option.default,
        annotation=Annotated[kind if is_flag else kind | None, info],
    )


def _given(group: _Group, values: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a group out of *values* and return those that were given."""
    given = {}
    for key, (_, option) in group.items():
        value = values.pop(key)
        if value is not None and value is not False and value != []:
            given[key] = value if option.read is None else option.read(value)
    return given
