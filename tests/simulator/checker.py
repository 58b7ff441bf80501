# SPDX-License-Identifier: Apache-2.0

"""Prove a history, from its events alone.

`check` proves that:

1. every accepted request ends exactly once, and no refused one begins;
2. the token ids and the text of a completion follow from its own request alone; a
   completion that was cut short has the beginning of them;
3. the end of a request names the true rule, token id or string, error and time;
4. a row belongs to one request at a time, and requests receive rows by priority, then
   by arrival; a run of a static batch takes the most urgent request, and may choose the
   others;
5. no row is idle while a request waits, unless the step's prompt tokens are spent;
6. the engine returns no output of a completion after its end or its abort;
7. at the end of each epoch all maps of the driver and the engine are empty.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from .traffic import BROKEN, END, natural_token

_CUT_SHORT = {
    "RequestCancelledError",
    "RequestTimeoutError",
    "EngineDeadError",
    "GeneratorClosedError",
    "RequestFailedError",
    "InvalidParameterError",
}
_TURN_S = 1.0


@attrs.frozen
class Violation:
    """A rule that a history breaks."""

    rule: str
    where: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}"


@attrs.define
class _Waiting:
    """The completions that wait in the engine for a row."""

    heap: list[tuple[int, int, str]] = attrs.field(factory=list)
    ids: set[str] = attrs.field(factory=set)

    def add(self, rank: tuple[int, int], request_id: str) -> None:
        heapq.heappush(self.heap, (*rank, request_id))
        self.ids.add(request_id)

    def first(self) -> tuple[int, int, str] | None:
        while self.heap and self.heap[0][2] not in self.ids:
            heapq.heappop(self.heap)
        return self.heap[0] if self.heap else None


def check(history: Iterable[tuple[Any, ...]]) -> list[Violation]:
    """Return the rules that a history breaks; an empty list proves it."""
    return _Check().run(history)


class _Check:
    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.world: Mapping[str, Any] = {}
        self.jobs: dict[int, tuple[Mapping[str, Any], float]] = {}
        self.cancelled: dict[int, float] = {}
        self.refused: set[int] = set()
        self.ended: set[int] = set()
        self.failed_rows: set[str] = set()
        self.fault: str | None = None
        self._new_epoch()

    def _new_epoch(self) -> None:
        self.waiting = _Waiting()
        self.ranks: dict[str, tuple[int, int]] = {}
        self.owner_of: dict[int, str] = {}
        self.over: set[str] = set()
        self.head: tuple[int, int, str] | None = None

    def run(self, history: Iterable[tuple[Any, ...]]) -> list[Violation]:
        for kind, *facts in history:
            getattr(self, f"on_{kind}")(*facts)
        missing = self.jobs.keys() - self.refused - self.ended
        for number in sorted(missing):
            self.broken("every accepted request ends", f"request {number} did not")
        return self.violations

    def broken(self, rule: str, where: str) -> None:
        self.violations.append(Violation(rule, where))

    # ------------------------------------------------------------------------ callers

    def on_world(self, world: Mapping[str, Any]) -> None:
        self.world = world

    def on_submit(self, number: int, job: Mapping[str, Any], now: float) -> None:
        self.jobs[number] = job, now

    def on_refuse(self, number: int, error: str) -> None:
        self.refused.add(number)
        if error != "QueueFullError":
            self.broken("a request is refused for a full queue alone", error)

    def on_cancel(self, number: int, now: float) -> None:
        self.cancelled.setdefault(number, now)

    def on_end(
        self, number: int, now: float, error: str, outputs: tuple[Any, ...]
    ) -> None:
        if number in self.ended or number in self.refused:
            self.broken("a request ends once", f"request {number} again")
        self.ended.add(number)
        job, submitted = self.jobs[number]
        if error == "":
            self._check_whole(number, job, outputs)
        elif error in _CUT_SHORT:
            self._check_cut(number, job, submitted, now, error)
            for index, (ids, text, _, _) in enumerate(outputs):
                self._check_beginning(f"{number}-{index}", job, index, ids, text)
        else:
            self.broken("an error is one that is documented", f"{number}: {error}")
        late = job["patience"] is not None and now > (
            submitted + job["patience"] + _TURN_S
        )
        if late and self.fault != "hangs":
            self.broken("a deadline ends a request", f"request {number} at {now}")

    def _check_whole(
        self, number: int, job: Mapping[str, Any], outputs: tuple[Any, ...]
    ) -> None:
        if len(outputs) != len(job["seeds"]):
            self.broken("a request has all its completions", f"request {number}")
        for index, facts in enumerate(outputs):
            expected = expected_completion(job, index)
            if tuple(facts) != expected:
                self.broken(
                    "tokens, text and end follow from the request alone",
                    f"completion {number}-{index}: {facts}, not {expected}",
                )

    def _check_beginning(
        self,
        name: str,
        job: Mapping[str, Any],
        index: int,
        ids: tuple[int, ...],
        text: str,
    ) -> None:
        all_ids, all_text, _, _ = expected_completion(job, index)
        if tuple(ids) != all_ids[: len(ids)] or not all_text.startswith(text):
            self.broken(
                "a request that is cut short has the beginning of its tokens",
                f"completion {name}: {ids} {text!r}, not of {all_ids} {all_text!r}",
            )

    def _check_cut(
        self,
        number: int,
        job: Mapping[str, Any],
        submitted: float,
        now: float,
        error: str,
    ) -> None:
        patience = job["patience"]
        names = [f"{number}-{index}" for index in range(len(job["seeds"]))]
        true = {
            "RequestCancelledError": number in self.cancelled,
            "RequestTimeoutError": patience is not None and now >= submitted + patience,
            "EngineDeadError": self.fault is not None,
            "GeneratorClosedError": False,
            "RequestFailedError": any(
                name in self.failed_rows or BROKEN in expected_completion(job, index)[0]
                for index, name in enumerate(names)
            ),
            "InvalidParameterError": job["refused"],
        }
        if not true[error]:
            self.broken("an error is true", f"request {number}: {error} at {now}")

    # ------------------------------------------------------------------------- engine

    def on_add(self, request_id: str, priority: int, arrival: int) -> None:
        self.ranks[request_id] = priority, arrival
        self.waiting.add((priority, arrival), request_id)

    def on_admit(self, request_id: str, row: int) -> None:
        if self.world["scheduler"] == "slots":
            if row in self.owner_of:
                self.broken(
                    "a row has one owner",
                    f"{request_id} into {row} of {self.owner_of[row]}",
                )
            self.owner_of[row] = request_id
        if self.world["scheduler"] == "runs":
            # A run takes the most urgent request, and may choose the others.
            self.head = self.head or self.waiting.first()
            self.waiting.ids.discard(request_id)
            return
        self.waiting.ids.discard(request_id)
        first = self.waiting.first()
        if first is not None and first[:2] < self.ranks[request_id]:
            self.broken(
                "rows are given by priority, then by arrival",
                f"{request_id} before {first[2]}",
            )

    def on_say(
        self,
        request_id: str,
        ids: tuple[int, ...],
        reason: str | None,
        stop_token_id: int | None,
        error: str | None,
    ) -> None:
        if request_id in self.over:
            self.broken("no output follows the end", request_id)
        if (reason == "error") != (error is not None):
            self.broken("an error has its finish reason", request_id)
        if reason == "error":
            self.failed_rows.add(request_id)
        if stop_token_id is not None and (
            reason != "stop" or tuple(ids[-1:]) != (stop_token_id,)
        ):
            self.broken("the stop token is the last token", request_id)
        if reason is not None:
            self._over(request_id)

    def on_abort(self, request_id: str) -> None:
        if request_id not in self.over:
            self._over(request_id)

    def _over(self, request_id: str) -> None:
        self.over.add(request_id)
        self.waiting.ids.discard(request_id)

    def on_release(self, row: int) -> None:
        if self.owner_of.pop(row, None) is None:
            self.broken("a row is released once", f"row {row}")

    def on_run(self, ids: tuple[str, ...]) -> None:
        if self.head is not None and self.head[2] not in ids:
            self.broken("the most urgent request is in the next run", self.head[2])
        self.head = None
        if len(ids) > self.world["num_slots"]:
            self.broken("a run fits the batch", f"{len(ids)} rows")
        if len(set(ids)) < len(ids):
            self.broken("a request has one row of a run", str(ids))
        for request_id in ids:
            if request_id in self.over or request_id not in self.ranks:
                self.broken("a run has only unfinished requests", request_id)

    def on_step(
        self, decode_steps: int, decoded: int, waiting: int, prompt_tokens: int
    ) -> None:
        budget = self.world["max_num_batched_tokens"]
        if prompt_tokens > budget:
            self.broken("a step keeps its budget", f"{prompt_tokens} of {budget}")
        idle = decode_steps and decoded < self.world["num_slots"]
        if idle and waiting and prompt_tokens < budget:
            self.broken("no row is idle while a request waits", f"{waiting} waited")

    def on_fault(self, kind: str) -> None:
        self.fault = kind

    def on_epoch(self) -> None:
        self.fault = None
        self._new_epoch()

    def on_rest(self, left: Mapping[str, int]) -> None:
        # The rows of a failed engine died with it.
        kept = {name: n for name, n in left.items() if n}
        if kept:
            self.broken("nothing is left at the end", str(kept))


def expected_completion(
    job: Mapping[str, Any], index: int
) -> tuple[tuple[int, ...], str, str, int | str | None]:
    """Return the ids, text, finish reason and stop reason that a completion must have.

    Computes them by brute force from the request alone: token after token, and for each
    the whole text again.
    """
    seed = job["seeds"][index]
    ends = {*job["stop_token_ids"]} | (set() if job["ignore_eos"] else {END})
    ids: list[int] = []
    while len(ids) < job["max_tokens"]:
        token_id = natural_token(seed, len(ids))
        may_end = len(ids) + 1 > job["min_tokens"]
        if token_id in ends and len(ids) < job["min_tokens"]:
            token_id = 1 + (seed + len(ids)) % 26
        ids.append(token_id)
        if token_id in ends:
            reason = token_id if token_id != END else None
            return tuple(ids), _text(ids[:-1]), "stop", reason
        # A stop string that was complete before `min_tokens` does not end it later.
        found = _stop_in(_text(ids), job["stop"]) if _text([token_id]) else None
        if may_end and found:
            at, stop = found
            return tuple(ids), _text(ids)[:at], "stop", stop
    return tuple(ids), _text(ids), "length", None


def _text(ids: Iterable[int]) -> str:
    return "".join(chr(ord("a") + i - 1) for i in ids if 1 <= i <= 26)


def _stop_in(text: str, stops: Iterable[str]) -> tuple[int, str] | None:
    """Return the stop string that the last letter completes, and where it begins."""
    matching = [stop for stop in stops if text.endswith(stop)]
    return (len(text) - len(matching[0]), matching[0]) if matching else None
