# SPDX-License-Identifier: Apache-2.0

"""Unknown keyword arguments: an error that names the nearest one, or the reason."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, overload

from .errors import UnknownArgumentError

C = TypeVar("C", bound=type)


@overload
def suggest_names(cls: C) -> C: ...


@overload
def suggest_names(*, reasons: Mapping[str, str]) -> Callable[[C], C]: ...


def suggest_names(
    cls: Any = None, *, reasons: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Make calls of *cls* refuse an unknown keyword with the nearest name that exists.

    Type checkers and `help` see the same signature as before.

    Args:
        cls: The class to decorate.
        reasons: Names that other libraries have, with the reason why *cls* does not.

    Raises:
        UnknownArgumentError: When the class is called, not here.
    """
    if cls is None:
        return functools.partial(suggest_names, reasons=reasons)
    original = cls.__init__
    known = {name for name in inspect.signature(original).parameters if name != "self"}

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in known:
                raise UnknownArgumentError(
                    cls.__name__, name, known, reason=reasons.get(name)
                )
        original(self, *args, **kwargs)

    cls.__init__ = init
    return cls
