# SPDX-License-Identifier: Apache-2.0

"""Fields of attrs classes that check and convert the values of a caller.

A value that a field refuses is an `InvalidParameterError` with the field's name, the
expected values and the given one.
"""

from __future__ import annotations

import math
import numbers
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import attrs

from .errors import InvalidParameterError

T = TypeVar("T")


def refuse(name: str, expected: str, value: Any) -> InvalidParameterError:
    """Return the error for a value that a field refuses."""
    return InvalidParameterError(
        f"{name} must be {expected}, got {value!r}.", parameter=name, value=value
    )


def field(
    default: Any,
    convert: Callable[[Any], Any],
    expected: str,
    accept: Callable[[Any], bool] = lambda _: True,
    *,
    optional: bool = False,
) -> Any:
    """A field that keeps what *convert* returns, and `None` too if *optional*.

    The field refuses a value for which *convert* raises a `TypeError`, `ValueError` or
    `OverflowError`, or *accept* is false.
    """
    expected += " or None" if optional else ""

    def checked(value: Any, attribute: attrs.Attribute[Any]) -> Any:
        if value is None and optional:
            return None
        try:
            converted = convert(value)
            accepted = accept(converted)
        except (TypeError, ValueError, OverflowError):
            accepted = False
        if not accepted:
            raise refuse(attribute.name, expected, value)
        return converted

    converter = attrs.Converter(checked, takes_field=True)
    return attrs.field(default=default, converter=converter)


def int_field(default: int | None, low: int, *, optional: bool = False) -> Any:
    """A field for an integer from *low* on."""
    expected = f"an integer ≥ {low}"
    return field(default, as_integer, expected, lambda n: n >= low, optional=optional)


def number_field(default: float, expected: str, accept: Callable[[Any], bool]) -> Any:
    """A field for a number for which *accept* is true."""
    return field(default, as_number, f"a number {expected}", accept)


def bool_field(default: bool) -> Any:
    """A field for True or False."""
    return field(default, lambda x: x, "True or False", lambda x: isinstance(x, bool))


def text_field() -> Any:
    """A field for a text that is not empty, or `None`."""
    return field(None, as_text, "a non-empty text", optional=True)


def as_integer(value: Any) -> int:
    """Return an integer of any library; a bool is not one."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def as_positive(name: str, value: Any, expected: str = "an integer ≥ 1") -> int:
    """Return an integer from 1 on.

    Raises:
        InvalidParameterError: *value* is not one.
    """
    try:
        if (number := as_integer(value)) >= 1:
            return number
    except TypeError:
        pass
    raise refuse(name, expected, value)


def as_number(value: Any) -> float:
    """Return a real number of any library; a bool is not one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    return float(value)


def as_seconds(name: str, value: Any, *, positive: bool = False) -> float | None:
    """Return a time to wait, at most as long as a thread can; `None` stays `None`.

    Raises:
        InvalidParameterError: *value* is not a number, or too small.
    """
    if value is None:
        return None
    try:
        seconds = as_number(value)
    except (TypeError, OverflowError):
        seconds = math.nan
    if seconds > 0 or (seconds == 0 and not positive):
        return min(seconds, threading.TIMEOUT_MAX)
    expected = f"a number of seconds {'>' if positive else '≥'} 0 or None"
    raise refuse(name, expected, value)


def as_text(value: Any) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def dict_field(name: str) -> Any:
    """Return a field for a dict of names, which is copied; an empty one is `None`."""

    def copied(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
        given = {} if value is None else value
        if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
            return dict(given) or None
        raise refuse(name, "a dict of names or None", value)

    return attrs.field(default=None, converter=copied)


def as_items(
    name: str, value: Any, convert: Callable[[Any], T], expected: str, at_least: int = 0
) -> tuple[T, ...]:
    """Return the converted items of a list, each once; no item for `None`."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse(name, expected, value)
    try:
        iterator = iter(value)
    except TypeError:  # an array without dimensions
        raise refuse(name, expected, value) from None
    items: dict[T, None] = {}
    for item in iterator:  # an error of the caller's own iterator passes on
        try:
            items[convert(item)] = None
        except (TypeError, ValueError, OverflowError):  # noqa: PERF203 - names *item*
            raise refuse(name, expected, item) from None
    if len(items) < at_least:
        raise refuse(name, expected, value)
    return tuple(items)
