# SPDX-License-Identifier: Apache-2.0

"""Exceptions as messages: an error of `unillm.errors` arrives with its attributes."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Mapping
from typing import Any

import attrs

from .. import errors
from ..errors import UnillmError
from ..lora import LoRARequest
from ..structured_outputs import StructuredOutputs
from .messages import Failure

_TUPLE = "()"
_VALUES = {each.__name__: each for each in (LoRARequest, StructuredOutputs)}
"""Classes of values that attributes have."""
_PLAIN = (type(None), bool, int, float, bytes)
_INTEGERS = range(-(2**63), 2**64)
"""Types and integers that MessagePack holds."""


def as_failure(error: BaseException) -> Failure:
    """Return an exception as a message."""
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    # The message of `KeyError` has quotes in its text alone.
    own = isinstance(error, UnillmError) or len(error.args) != 1
    message = str(error) if own else str(error.args[0])
    state = vars(error) if isinstance(error, UnillmError) else {}
    return Failure(
        kinds=kinds,
        message=message.encode("utf-8", "backslashreplace").decode(),
        state={name: _as_plain(value) for name, value in state.items()},
    )


def as_exception(failure: Failure) -> Exception:
    """Return a message as an exception: the nearest class that exists here too."""
    for kind in failure.kinds:
        module, _, name = kind.rpartition(".")
        found: Any = None
        if module == errors.__name__:
            found = getattr(errors, name, None)
        elif module == builtins.__name__:
            found = getattr(builtins, name, None)
        if not isinstance(found, type) or not issubclass(found, Exception):
            continue
        if issubclass(found, UnillmError):
            error = errors.rebuild(found, (failure.message,))
            for attribute, value in failure.state.items():
                if not attribute.startswith("__"):
                    setattr(error, attribute, _as_value(value))
            return error
        own = failure.kinds[0] == kind  # else its class exists there alone
        text = failure.message if own else f"{failure.kinds[0]}: {failure.message}"
        with contextlib.suppress(TypeError):  # such as UnicodeDecodeError
            return found(text)
    return RuntimeError(": ".join([*failure.kinds[:1], failure.message]))


def _as_plain(value: Any) -> Any:
    """Return what MessagePack has no form for as a marked map, or as its `repr`."""
    plain = value
    if isinstance(value, str):
        plain = value.encode("utf-8", "backslashreplace").decode()
    elif isinstance(value, list):
        plain = [_as_plain(each) for each in value]
    elif isinstance(value, tuple):
        plain = {_TUPLE: [_as_plain(each) for each in value]}
    elif isinstance(value, Mapping):
        plain = {_as_key(key): _as_plain(each) for key, each in value.items()}
    elif type(value) in _VALUES.values():
        fields = attrs.asdict(value, recurse=False)
        plain = {type(value).__name__: _as_plain(fields)}
    elif not isinstance(value, _PLAIN) or (
        isinstance(value, int) and value not in _INTEGERS
    ):
        plain = repr(value)
    return plain


def _as_key(key: Any) -> Any:
    return key if isinstance(key, (int, str)) else repr(key)


def _as_value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_as_value(each) for each in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        [(mark, inner)] = plain.items()
        if mark == _TUPLE and isinstance(inner, list):
            return tuple(_as_value(each) for each in inner)
        if mark in _VALUES and isinstance(inner, dict):
            with contextlib.suppress(Exception):  # it has other fields there
                return _VALUES[mark](**_as_value(inner))
    return {key: _as_value(each) for key, each in plain.items()}
