# SPDX-License-Identifier: Apache-2.0

"""`read`: the bytes of a body as a type of `bodies`, or an error with its field.

A field that the type lacks is accepted if it cannot change the answer, and refused by
name otherwise, with the reason or with the nearest name that exists.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Generic, TypeVar

import attrs
import msgspec

from ..errors import InvalidParameterError, RequestError, nearest_name
from .fields import REFUSED, TOLERATED

T = TypeVar("T", bound=msgspec.Struct)

_PATH = re.compile(r" - at `\$\.?(.*?)`$")
_SHOWN_FIELD = 80
"""Characters of an unknown field's name that a message shows."""


@attrs.frozen
class Read(Generic[T]):
    """A body, and the fields that were accepted without effect."""

    body: T
    ignored: tuple[str, ...] = ()


def read(raw: bytes, kind: type[T]) -> Read[T]:
    """Return the body of a request.

    Args:
        raw: JSON text.
        kind: One of the types of `bodies`.

    Raises:
        RequestError: The text is not JSON, or not an object.
        InvalidParameterError: A field has the wrong type or is not honoured.
    """
    try:
        given = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            f"The body is not valid JSON: {error}. Send one JSON object."
        ) from error
    if not isinstance(given, dict):
        raise RequestError(
            f"The body must be a JSON object, got {type(given).__name__}."
        )
    known = _known(kind)
    extra = [name for name in given if name not in known]
    ignored = [name for name in extra if not _refuse_or_ignore(name, given, known)]
    for name in extra:
        del given[name]
    try:
        return Read(msgspec.convert(given, kind), tuple(sorted(ignored)))
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(str(error)) from error


@functools.cache
def _known(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(kind.__struct_fields__)


def _refuse_or_ignore(name: str, given: dict[str, Any], known: frozenset[str]) -> bool:
    """Return whether a further field asks for nothing; raise if it is refused.

    False means that it is accepted without effect and named in the response.
    """
    value = given[name]
    if value is None:
        return True
    if name in TOLERATED:
        return False
    refused = REFUSED.get(name)
    if refused is None:
        shown = name[:_SHOWN_FIELD]
        raise InvalidParameterError(
            f"The field {shown!r} does not exist.{nearest_name(shown, known)} A field "
            "that the server does not know could change the answer, so it is refused; "
            "remove it.",
            parameter=shown,
            value=None,
        )
    if any(value == each and type(value) is type(each) for each in refused.harmless):
        return True
    raise InvalidParameterError(
        f"The field {name!r} is not honoured: {refused.reason}.",
        parameter=name,
        value=None,
    )


def _invalid(message: str) -> InvalidParameterError:
    found = _PATH.search(message)
    path = found.group(1) if found else ""
    if not path and (name := re.search(r"required field `(\w+)`", message)):
        path = name.group(1)
    what = message[: found.start()] if found else message
    where = f"{path}: " if path else ""
    return InvalidParameterError(
        f"{where}{what}.", parameter=path or "body", value=None
    )
