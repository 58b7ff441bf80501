# SPDX-License-Identifier: Apache-2.0

"""`Failure`: why a request has no answer, and whether another try may succeed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import attrs

_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")

SHOWN = 300
"""Characters of a server's text in a message."""

_LATER = (502, 503, 504)
"""A gateway that has no server, or a server that is not ready."""

FULL = 429

PAUSE_S = 1.0
"""Seconds before another try where the server names none."""


@attrs.frozen(kw_only=True)
class Failure:
    """Why a request has no answer."""

    message: str
    retry_after_s: float | None = None
    """Seconds after which another try may succeed; `None` if none will."""
    full: bool = False
    """Whether the server works and takes no more requests now."""


def failure_of(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Return the failure that a response without tokens stands for.

    Args:
        status: Of HTTP.
        headers: Of the response, by lower-case names.
        body: Its beginning.
    """
    says = _said(headers.get("content-type", ""), body)
    message = f"the server answered {status} {_phrase(status)}: {says}"
    if status == FULL:
        return Failure(message=message, retry_after_s=_wait(headers), full=True)
    if status in _LATER:
        return Failure(message=message, retry_after_s=_wait(headers))
    if status in (401, 403):
        message += ". Check the key of the server"
    if 300 <= status < 400:
        message += f" (to {headers.get('location', 'nowhere')}), which is not followed"
    return Failure(message=message)


def error_text(event: Mapping[str, Any]) -> str | None:
    """Return the message of an event that is an error; `None` if it is none.

    Servers nest it as OpenAI does, send it flat, or send a text alone.
    """
    if event.get("object") == "error":
        return str(event.get("message"))[:SHOWN]
    found = event.get("error")
    if found is None:
        return None
    if isinstance(found, dict):
        found = found.get("message", found)
    return str(found)[:SHOWN]


def _said(kind: str, body: bytes) -> str:
    """Return what a body says, in few words."""
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return "nothing"
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        said = error_text(found) or found.get("message") or found.get("detail")
        if said:
            return str(said)[:SHOWN]
    shown = " ".join(text.split())[:SHOWN]
    if "html" in kind or shown[:1] == "<":
        return f"a page of HTML, as a proxy sends for a login ({shown[:80]}…)"
    return shown


def _wait(headers: Mapping[str, str]) -> float:
    """Return the seconds of Retry-After; a date counts as none."""
    given = headers.get("retry-after", "")
    return min(float(given), 60.0) if _SECONDS.fullmatch(given) else PAUSE_S


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
