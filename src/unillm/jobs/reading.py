# SPDX-License-Identifier: Apache-2.0

"""One JSON line as a request: a line of OpenAI's batch format, a row, or a text.

Batch jobs and ``unillm generate --file`` read lines here, so both take the same.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import InvalidPromptError, nearest_name
from ..protocol.fields import TOLERATED
from .body import FIELDS, PROMPTS, Bodies
from .forms import BadLineError

INVALID = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of text that is not JSON of the wanted type."""

IDS = ("id", "custom_id")
"""Keys of a row by which its reader knows it again."""

_TOO_LONG = "The line is too long to be read."
_NOTHING = msgspec.Raw(b"null")


class Envelope(msgspec.Struct):
    """A line of OpenAI's batch format."""

    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: msgspec.Raw = _NOTHING


class _Probe(msgspec.Struct):
    """Tells the two kinds of lines apart."""

    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


as_envelope = msgspec.json.Decoder(Envelope).decode
_probe = msgspec.json.Decoder(_Probe).decode
_value = msgspec.json.Decoder().decode


class Request(msgspec.Struct, frozen=True):
    """The request of one line."""

    url: str
    """Path of the endpoint."""
    body: bytes
    """JSON text of what the endpoint takes."""
    own: tuple[str, ...]
    """Names of the line's fields besides its prompt."""
    ids: dict[str, Any]
    """Those of `IDS` that the line has."""


def is_envelope(raw: bytes) -> bool:
    """Whether a line is a JSON object with a body, as in OpenAI's batch format.

    Raises:
        msgspec.ValidationError: The line is JSON and not an object.
        INVALID: The line is not JSON.
    """
    return _probe(raw).body is not msgspec.UNSET


def read_envelope(raw: bytes | None) -> Envelope:
    """Return a line of OpenAI's batch format.

    Args:
        raw: The line; `None` for one that is too long.

    Raises:
        BadLineError: The line is not one.
    """
    if raw is None:
        raise BadLineError(_TOO_LONG)
    try:
        found = as_envelope(raw)
    except msgspec.ValidationError as error:
        raise BadLineError(f"The line is not a request of a batch: {error}.") from error
    except INVALID as error:
        raise BadLineError(
            f"The line is not JSON: {error}.", "invalid_json_line"
        ) from error
    for name in ("custom_id", "url"):
        if getattr(found, name) is None:
            raise BadLineError(f"The line has no {name}, which is a text.")
    if found.method not in (None, "POST"):
        raise BadLineError(f"The method must be POST, got {found.method!r}.")
    return found


def read_row(raw: bytes | None) -> dict[str, Any]:
    """Return a row; a text alone is its prompt.

    Args:
        raw: The line; `None` for one that is too long.

    Raises:
        BadLineError: The line is neither an object nor a text.
    """
    if raw is None:
        raise BadLineError(_TOO_LONG)
    try:
        value = _value(raw)
    except INVALID as error:
        raise BadLineError(
            f"The line is not JSON: {error}.", "invalid_json_line"
        ) from error
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise BadLineError(
            "A line is a JSON object with a prompt or messages, or a text, got "
            f"{type(value).__name__}."
        )
    return value


def read_request(raw: bytes | None, bodies: Bodies) -> Request:
    """Return the request of a line of either kind, which has no other columns.

    Raises:
        InvalidPromptError: The line is not a request, or has an unknown field.
    """
    try:
        if raw is not None and _has_body(raw):
            found = read_envelope(raw)
            body = bodies.complete(str(found.url), bytes(found.body))
            own = _names(bytes(found.body))
            return Request(str(found.url), body, own, {"custom_id": found.custom_id})
        row = read_row(raw)
    except BadLineError as error:
        raise InvalidPromptError(str(error)) from error
    ids = {name: row.pop(name) for name in IDS if name in row}
    known = FIELDS | {*PROMPTS} | TOLERATED
    for name in row.keys() - known:
        raise InvalidPromptError(
            f"The line has the field {name[:80]!r}, which a request does not have."
            f"{nearest_name(name[:80], known)} Remove it, or use unillm batch, which "
            "keeps further columns."
        )
    url, body = bodies.of_row(row)
    own = tuple(name for name in row if name not in PROMPTS and row[name] is not None)
    return Request(url, body, own, ids)


def _has_body(raw: bytes) -> bool:
    try:
        return is_envelope(raw)
    except INVALID:
        return False


def _names(body: bytes) -> tuple[str, ...]:
    """Return the fields of a body besides its prompt; none of what is not an object."""
    try:
        given = _value(body)
    except INVALID:
        return ()
    if not isinstance(given, dict):
        return ()
    return tuple(name for name in given if name not in (*PROMPTS, "input"))
