# SPDX-License-Identifier: Apache-2.0

"""Keyword arguments that a class lacks: dropped, or an error with a reason."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from .errors import UnknownArgumentError

C = TypeVar("C", bound=type)


def suggest_names(
    reasons: Mapping[str, str] = MappingProxyType({}),
    harmless: Mapping[str, Collection[Any]] = MappingProxyType({}),
) -> Callable[[C], C]:
    """Make calls of a class refuse an unknown keyword with the nearest name it takes.

    Type checkers and `help` see the same signature as before.

    Args:
        reasons: Names that other libraries have, with the reason why the class does
            not.
        harmless: Values that request what the class does anyway. Such a keyword is
            dropped.

    Raises:
        UnknownArgumentError: When the class is called, not here.
    """

    def decorate(cls: C) -> C:
        original = vars(cls)["__init__"]
        known = inspect.signature(original).parameters.keys() - {"self"}

        @functools.wraps(original)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in tuple(kwargs):
                if name in harmless and _is_one_of(kwargs[name], harmless[name]):
                    del kwargs[name]
                elif name not in known:
                    raise UnknownArgumentError(
                        cls.__name__, name, known, reason=reasons.get(name)
                    )
            original(self, *args, **kwargs)

        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate


def _is_one_of(value: Any, values: Collection[Any]) -> bool:
    plain = value is None or isinstance(value, (bool, int, float, str, list, dict))
    return plain and value in values
