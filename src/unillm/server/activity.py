# SPDX-License-Identifier: Apache-2.0

"""`Activity`: when the last requests waited and ran, and in which slots.

It holds no text, no token and no key.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from .. import RequestHandle

_KEPT = 256
"""Requests that are remembered."""


class RequestActivity(Struct, kw_only=True):
    """One request. Times are seconds before the answer; `None` is yet to come."""

    id: str
    queued: float
    first_token: float | None
    last_token: float | None
    done: bool
    reason: str | None
    prompt_tokens: int
    tokens: int
    slot: int | None
    waited_steps: int | None


class ActivityReport(Struct, kw_only=True):
    """Body of ``GET /activity``."""

    num_slots: int
    """Requests that the engine takes at the same time."""
    running: int | None
    waiting: int | None
    requests: list[RequestActivity]


@attrs.define
class _Entry:
    request_id: str
    handle: RequestHandle | None
    last: RequestActivity | None = None


class Activity:
    """The last requests of one server. One thread uses it."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque(maxlen=_KEPT)

    def add(self, request_id: str, handles: Sequence[RequestHandle]) -> None:
        """Remember a request, which may have several prompts.

        The outputs of requests that have ended are let go.
        """
        for index, handle in enumerate(handles):
            name = request_id if len(handles) == 1 else f"{request_id}-{index}"
            self._entries.append(_Entry(name, handle))
        now = time.monotonic()
        for entry in self._entries:
            if entry.handle is not None and entry.handle.done():
                _seen(entry, now)

    def report(self, *, num_slots: int, stats: Mapping[str, Any]) -> ActivityReport:
        """Return the requests, oldest first, with the engine's counts.

        Args:
            num_slots: Requests that the engine takes at the same time.
            stats: ``Generator.stats()``; empty without an engine.
        """
        now = time.monotonic()
        engine = stats.get("engine") or {}
        return ActivityReport(
            num_slots=num_slots,
            running=engine.get("running"),
            waiting=stats.get("queued"),
            requests=[_at(_seen(entry, now), now) for entry in self._entries],
        )


def _seen(entry: _Entry, now: float) -> RequestActivity:
    """Return a request with times of the monotonic clock."""
    if entry.handle is None:
        assert entry.last is not None
        return entry.last
    done = entry.handle.done()  # first: what follows is then the whole output
    output = entry.handle.output()
    metrics = output.metrics
    completions = output.outputs
    slots = None if metrics is None else metrics.slots
    entry.last = RequestActivity(
        id=entry.request_id,
        queued=now if metrics is None else metrics.queued_ts,
        first_token=None if metrics is None else metrics.first_token_ts,
        last_token=None if metrics is None else metrics.last_token_ts,
        done=done,
        reason=completions[0].finish_reason if done and completions else None,
        prompt_tokens=len(output.prompt_token_ids),
        tokens=sum(len(each.token_ids) for each in completions),
        slot=None if slots is None else slots.slot,
        waited_steps=None if slots is None else slots.waited_steps,
    )
    if done:
        entry.handle = None
    return entry.last


def _at(request: RequestActivity, now: float) -> RequestActivity:
    """Return the request with its times as seconds before *now*."""

    def before(moment: float | None) -> float | None:
        return None if moment is None else round(now - moment, 3)

    return replace(
        request,
        queued=round(now - request.queued, 3),
        first_token=before(request.first_token),
        last_token=before(request.last_token),
    )
