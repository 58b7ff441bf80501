# SPDX-License-Identifier: Apache-2.0

"""Containers of other libraries as lists: numpy, torch, pandas, Arrow, polars.

None of them is imported: an object is known by the method that makes a list of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MAKE_LIST = ("to_pylist", "tolist", "to_list")
"""Methods of Arrow; of numpy, torch and pandas; of polars."""


def is_container(item: Any) -> bool:
    """Whether *item* is an array or a column, with any number of dimensions."""
    return _maker(item) is not None


def is_lazy(prompts: Any) -> bool:
    """Whether an argument is an iterable of prompts to be read one by one.

    A prompt, a list, an array, a column and a table are none; `as_prompts` takes them.
    """
    whole = isinstance(prompts, (str, bytes, Mapping, Sequence))
    whole = whole or is_container(prompts) or hasattr(prompts, "columns")
    return isinstance(prompts, Iterable) and not whole


def as_list(item: Any) -> list[Any]:
    """Return the values of a container as plain Python values.

    An array without dimensions has one.
    """
    values = _maker(item)()
    return values if isinstance(values, list) else [values]


def plain_value(item: Any) -> Any:
    """Return the Python value of a scalar of Arrow, and any other object unchanged."""
    return item.as_py() if hasattr(item, "as_py") else item


def _maker(item: Any) -> Any:
    if isinstance(item, type):
        return None
    makers = (getattr(item, name, None) for name in _MAKE_LIST)
    return next((maker for maker in makers if callable(maker)), None)
