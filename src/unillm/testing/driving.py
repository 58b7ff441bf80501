# SPDX-License-Identifier: Apache-2.0

"""An engine driven step by step from one thread, with a limit on each call.

As in real use, one thread creates the engine and another one uses it. Each output is
copied when the engine returns it; the clauses judge the copies.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import attrs

if TYPE_CHECKING:
    from ..engines.base import (
        Capabilities,
        Engine,
        EngineLimits,
        EngineOutput,
        EngineRequest,
        TokenLogprobs,
    )
    from ..outputs import FinishReason

T = TypeVar("T")


class EngineThread:
    """Runs calls one after the other on its own thread.

    Not an executor of `concurrent.futures`: that one waits for its threads when the
    process ends, and an engine that hangs would keep the process.

    Args:
        patience_s: Limit of each call.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.stuck = False
        threading.Thread(target=self._run, name="unillm-contract", daemon=True).start()

    def call(self, function: Callable[[], T], name: str) -> T:
        """Call *function* on the thread; return its value or raise its error.

        Raises:
            AssertionError: This call or an earlier one did not return in time.
        """
        assert not self.stuck, "an earlier call of the engine did not return"
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised in the caller
                answer.set_exception(error)

        self._calls.put(run)
        try:
            return answer.result(self._patience_s)
        except TimeoutError:
            if answer.done():
                raise  # the call's own
            self.stuck = True
            raise AssertionError(
                f"{name} did not return within {self._patience_s:g} s"
            ) from None

    def end(self) -> None:
        """Let the thread end after its calls."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


@attrs.frozen
class Result:
    """All outputs of one request so far."""

    outputs: Sequence[EngineOutput]
    """Copies, made when the engine returned them."""

    @property
    def token_ids(self) -> list[int]:
        """All new ids."""
        return [each for output in self.outputs for each in output.token_ids]

    @property
    def finish_reasons(self) -> list[FinishReason]:
        """All finish reasons; a correct engine gives one."""
        return [o.finish_reason for o in self.outputs if o.finish_reason is not None]

    @property
    def finish_reason(self) -> FinishReason | None:
        """The first finish reason."""
        return self.finish_reasons[0] if self.finish_reasons else None

    @property
    def stop_token_id(self) -> int | None:
        """The stop id of the first output with a finish reason."""
        ends = [o.stop_token_id for o in self.outputs if o.finish_reason is not None]
        return ends[0] if ends else None

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """All log-probabilities of new tokens."""
        return [each for output in self.outputs for each in output.logprobs or ()]

    @property
    def prompt_logprobs(self) -> Sequence[TokenLogprobs] | None:
        """The first log-probabilities of the prompt."""
        found = [o.prompt_logprobs for o in self.outputs]
        return next((each for each in found if each is not None), None)


class DrivenEngine:
    """An engine on a thread, with the outputs that it returned since `restart`.

    Args:
        engine: Under test; closed by `close`.
        patience_s: Limit of each call.

    Attributes:
        outputs: Copies of all outputs, in order.
        live_outputs: The engine's own objects.
    """

    MAX_STEPS = 5_000
    """More steps than any clause needs."""

    def __init__(self, engine: Engine, patience_s: float) -> None:
        self.engine = engine
        self._thread = EngineThread(patience_s)
        self.outputs: list[EngineOutput] = []
        self.live_outputs: list[EngineOutput] = []

    # --------------------------------------------------------------- the engine's calls

    @property
    def limits(self) -> EngineLimits:
        """The engine's limits."""
        return self._thread.call(lambda: self.engine.limits, "limits")

    @property
    def capabilities(self) -> Capabilities:
        """The engine's own capabilities, without those of its backend."""
        return self._thread.call(lambda: self.engine.capabilities, "capabilities")

    @property
    def unfinished(self) -> bool:
        """Whether the engine has unfinished requests."""
        return self._thread.call(self.engine.has_unfinished, "has_unfinished()")

    def add(self, *requests: EngineRequest) -> None:
        """Add requests, in their order."""
        for request in requests:
            add = functools.partial(self.engine.add_request, request)
            self._thread.call(add, "add_request()")

    def step(self) -> list[EngineOutput]:
        """Step once; return the outputs."""
        return self._record(self._thread.call(self.engine.step, "step()"))

    def abort(self, *request_ids: str) -> None:
        """Abort requests."""
        self._thread.call(lambda: self.engine.abort(request_ids), "abort()")

    def close(self) -> None:
        """Close the engine, on its thread."""
        self._thread.call(self.engine.close, "close()")

    # ---------------------------------------------------------------------- whole runs

    def run(self, *requests: EngineRequest) -> list[Result]:
        """Add requests, step until the engine is idle, and return the results."""
        self.add(*requests)
        self.finish()
        return [self.result(request) for request in requests]

    def finish(self) -> None:
        """Step until the engine is idle."""
        self._step_until(lambda: False)

    def step_until_begun(self, *requests: EngineRequest) -> None:
        """Step until each of *requests* has a new token."""
        found = self._step_until(
            lambda: all(self.result(r).token_ids for r in requests)
        )
        assert found, "the engine is idle and requests have not begun"

    def step_until_ended(self, *requests: EngineRequest) -> None:
        """Step until each of *requests* has ended, whatever else runs."""
        ended = self._step_until(
            lambda: all(self.result(r).finish_reasons for r in requests)
        )
        assert ended, "the engine is idle and requests have not ended"

    def _step_until(self, done: Callable[[], bool]) -> bool:
        """Step until *done*, or until nothing is unfinished; return which (true: done).

        Raises:
            AssertionError: Neither happened within `MAX_STEPS`.
        """

        def step() -> list[EngineOutput] | None:  # as the driver does
            return self.engine.step() if self.engine.has_unfinished() else None

        for _ in range(self.MAX_STEPS):
            if done():
                return True
            outputs = self._thread.call(step, "step()")
            if outputs is None:
                return False
            self._record(outputs)
        raise AssertionError(f"requests have not ended after {self.MAX_STEPS} steps")

    def _record(self, outputs: list[EngineOutput]) -> list[EngineOutput]:
        """Keep outputs and copies of them; return the copies."""
        self.live_outputs += outputs
        copies = [
            attrs.evolve(
                output,
                token_ids=tuple(output.token_ids),
                logprobs=None if output.logprobs is None else tuple(output.logprobs),
            )
            for output in outputs
        ]
        self.outputs += copies
        return copies

    def ids(self, requests: Iterable[EngineRequest]) -> list[list[int]]:
        """Return the new ids of each request so far."""
        return [self.result(request).token_ids for request in requests]

    def result(self, request: EngineRequest | str) -> Result:
        """Return the outputs of a request so far."""
        name = request if isinstance(request, str) else request.request_id
        return Result([o for o in self.outputs if o.request_id == name])

    def restart(self) -> bool:
        """Forget the outputs; return whether the next clause can trust the engine."""
        self.outputs.clear()
        self.live_outputs.clear()
        return not self._thread.stuck and not self.unfinished

    def dispose(self) -> None:
        """Close the engine if it responds, without raising or waiting for a hang."""
        try:
            if not self._thread.stuck:
                self.close()
        except Exception:  # noqa: BLE001, S110 - a clause reports it
            pass
        self._thread.end()
