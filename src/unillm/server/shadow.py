# SPDX-License-Identifier: Apache-2.0

"""`Shadow`: a second engine that repeats a share of the greedy requests.

It runs in a process of its own and never holds up the first: a request is repeated
after its answer, and a request that finds the shadow busy is not repeated but counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import Struct

from ..comparison.follower import MAX_RUNNING, Following, Repeat, Repeated, json_params
from ..comparison.verdict import Answer, Comparison, Verdict, compare
from ..comparison.worker import CONVERTER, answer_of
from ..errors import UnillmError
from ..metrics.histogram import REQUEST_S, Histogram
from ..metrics.prometheus import ShadowCounts

if TYPE_CHECKING:
    from .. import RequestHandle, RequestOutput, SamplingParams

log = logging.getLogger("unillm.server")

_MAX_WAITING = 64
"""Requests that may wait for the shadow."""

_MAX_LATENCIES = 1000
_MAX_DIFFERENCES = 50
_GRACE_S = 10.0


@attrs.frozen(kw_only=True)
class ShadowSettings:
    """The second engine."""

    backend: str
    share: float
    """Share of the greedy requests that are repeated, in 0..1."""
    python: str = sys.executable
    """Interpreter whose environment has unillm and the engine."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """Options of `Generator`, as JSON values."""


class Latency(Struct, kw_only=True):
    """Seconds from arrival to the last token, over the last requests."""

    median: float | None
    p95: float | None


class Difference(Struct, kw_only=True):
    """A request to which the two engines gave different answers."""

    request_id: str
    verdict: str
    num_tokens: tuple[int, int]
    position: int | None
    """Index of the first different token; `None` where one answer goes on."""
    token_ids: tuple[int, int] | None
    tokens: tuple[str | None, str | None] | None
    gaps: tuple[float | None, float | None] | None
    """How much more probable its own token is to each engine than the other's, in nats;
    `None` where the engine gave no log-probabilities."""
    error: str | None


class ShadowReport(Struct, kw_only=True):
    """Body of ``GET /shadow``."""

    backend: str
    state: str
    share: float
    compared: int
    agreed: int
    verdicts: dict[str, int]
    waiting: int
    dropped: int
    """Requests that found the shadow busy or not there."""
    latency: dict[str, Latency]
    differences: list[Difference]
    """The last ones, newest first."""


@attrs.frozen(kw_only=True)
class _Asked:
    request_id: str
    answer: Answer
    seconds: float


class Shadow:
    """The second engine of one server. The methods are called by the server's loop.

    Args:
        model: Model of both engines.
        settings: The second engine.

    Attributes:
        settings: The second engine.
        state: "loading", "ready", or why it ended.
        verdicts: Compared requests by how the answers relate.
        dropped: Requests that found the shadow busy or not there.
        latencies: Seconds of a request, by side: "first" and "shadow".
    """

    def __init__(self, model: str, settings: ShadowSettings) -> None:
        self.settings = settings
        self.state = "loading"
        self.verdicts: Counter[Verdict] = Counter()
        self.dropped = 0
        self.latencies = {"first": Histogram(REQUEST_S), "shadow": Histogram(REQUEST_S)}
        self._model = model
        self._due = 0.0
        self._next = 0
        self._asked: dict[int, _Asked] = {}
        self._seconds: dict[str, deque[float]] = {
            side: deque(maxlen=_MAX_LATENCIES) for side in self.latencies
        }
        self._differences: deque[Difference] = deque(maxlen=_MAX_DIFFERENCES)
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._wake = threading.Condition(self._lock)
        self._closed = False
        self._following: set[asyncio.Task[None]] = set()
        self._process: subprocess.Popen[str] | None = None

    # ------------------------------------------------------------------------ requests

    def follow(
        self, request_id: str, handles: Sequence[RequestHandle], params: SamplingParams
    ) -> None:
        """Repeat a request after its answer, if it is greedy and its turn has come."""
        if not params.greedy:
            return
        for handle in handles:
            self._due += self.settings.share
            if self._due < 1.0:
                continue
            self._due -= 1.0
            task = asyncio.create_task(self._repeat(request_id, handle, params))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _repeat(
        self, request_id: str, handle: RequestHandle, params: SamplingParams
    ) -> None:
        try:
            output = await handle
        except UnillmError:
            return  # without an answer there is nothing to compare
        metrics = output.metrics
        seconds = 0.0
        if metrics is not None and metrics.last_token_ts is not None:
            seconds = metrics.last_token_ts - metrics.queued_ts
        self._offer(request_id, output, json_params(params), seconds)

    def _offer(
        self,
        request_id: str,
        output: RequestOutput,
        params: dict[str, Any],
        seconds: float,
    ) -> None:
        with self._lock:
            if self.state != "ready" or len(self._asked) >= _MAX_WAITING + MAX_RUNNING:
                self.dropped += 1
                return
            self._next += 1
            self._asked[self._next] = _Asked(
                request_id=request_id, answer=answer_of(output), seconds=seconds
            )
            repeat = Repeat(
                number=self._next,
                prompt_token_ids=output.prompt_token_ids,
                params=params,
            )
            self._waiting.append(CONVERTER.dumps(repeat))
            self._wake.notify()

    # ------------------------------------------------------------------------- process

    def start(self) -> None:
        """Start the engine's process; requests are repeated once it is ready."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own choice
                [self.settings.python, "-m", "unillm.comparison.follower"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the server
            )
        except OSError as error:
            self._end(f"{self.settings.python} cannot be run: {error.strerror}")
            return
        options = {**self.settings.options, "backend": self.settings.backend}
        following = Following(model=self._model, options=options)
        self._waiting.append(json.dumps(attrs.asdict(following)))
        for target in (self._write, self._read):
            threading.Thread(target=target, daemon=True).start()

    def close(self) -> None:
        """End the engine's process."""
        with self._lock:
            self._closed = True
            self._wake.notify()
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                line = self._waiting.popleft()
            try:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                return  # it has ended; `_read` says how

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        why = ""
        for text in self._process.stdout:
            line = json.loads(text)
            if "ready" in line:
                self.state = "ready"
            elif "answer" in line:
                self._compared(CONVERTER.structure(line["answer"], Repeated))
            else:
                why = f": {line['error']['kind']}: {line['error']['message']}"
        status = self._process.wait()
        if not self._closed:
            self._end(f"ended with exit status {status}{why}")

    def _end(self, why: str) -> None:
        log.error("the shadow engine %s: %s", self.settings.backend, why)
        with self._lock:
            self.state = why
            self.dropped += len(self._asked)
            self._asked.clear()

    def _compared(self, repeated: Repeated) -> None:
        with self._lock:
            asked = self._asked.pop(repeated.number)
            found = compare(asked.answer, repeated.answer)
            self.verdicts[found.verdict] += 1
            taken = {"first": asked.seconds, "shadow": repeated.seconds}
            for side, seconds in taken.items():
                self.latencies[side].observe(seconds)
                self._seconds[side].append(seconds)
            if not found.verdict.agrees:
                self._differences.appendleft(_difference(asked.request_id, found))

    # -------------------------------------------------------------------------- report

    def report(self) -> ShadowReport:
        """Return what was compared so far."""
        with self._lock:
            return ShadowReport(
                backend=self.settings.backend,
                state=self.state,
                share=self.settings.share,
                compared=self.verdicts.total(),
                agreed=sum(
                    count for each, count in self.verdicts.items() if each.agrees
                ),
                verdicts={each.value: count for each, count in self.verdicts.items()},
                waiting=len(self._asked),
                dropped=self.dropped,
                latency={side: _latency(each) for side, each in self._seconds.items()},
                differences=list(self._differences),
            )

    def counts(self) -> ShadowCounts:
        """Return the same as numbers for Prometheus."""
        with self._lock:
            return ShadowCounts(
                verdicts={each.value: count for each, count in self.verdicts.items()},
                dropped=self.dropped,
                latencies=self.latencies,
            )


def _difference(request_id: str, found: Comparison) -> Difference:
    one, other = found.answers
    at = found.divergence
    return Difference(
        request_id=request_id,
        verdict=found.verdict.value,
        num_tokens=(len(one.token_ids), len(other.token_ids)),
        position=None if at is None else at.position,
        token_ids=None if at is None else at.token_ids,
        tokens=None if at is None else at.texts,
        gaps=None
        if at is None
        else (
            None if at.gaps[0] is None else at.gaps[0].nats,
            None if at.gaps[1] is None else at.gaps[1].nats,
        ),
        error=other.message or None,
    )


def _latency(seconds: Sequence[float]) -> Latency:
    if not seconds:
        return Latency(median=None, p95=None)
    ordered = sorted(seconds)
    return Latency(
        median=statistics.median(ordered), p95=ordered[int(0.95 * (len(ordered) - 1))]
    )
