# SPDX-License-Identifier: Apache-2.0

"""Unknown keyword arguments: an error that names the nearest one."""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar

from .errors import UnknownArgumentError

C = TypeVar("C", bound=type)


def suggest_names(cls: C) -> C:
    """Make *cls* answer an unknown keyword with the nearest name that exists.

    The signature stays as it was, for type checkers and for `help`.

    Raises:
        UnknownArgumentError: When the class is called, not here.
    """
    original = cls.__init__  # type: ignore[misc]
    known = [name for name in inspect.signature(original).parameters if name != "self"]

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in known:
                raise UnknownArgumentError(cls.__name__, name, known)
        original(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[misc]
    return cls
