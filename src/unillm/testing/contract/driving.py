# SPDX-License-Identifier: Apache-2.0

"""An engine driven step by step, from one thread, with limited patience.

As in real use, the engine is made in one thread and used in another. What it tells is
written down as it was when it was told; judging is the clauses' work.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import attrs

if TYPE_CHECKING:
    from ...engines.base import (
        Capabilities,
        Engine,
        EngineLimits,
        EngineOutput,
        EngineRequest,
        TokenLogprobs,
    )
    from ...outputs import FinishReason

T = TypeVar("T")


class EngineThread:
    """Runs calls one after the other on a thread of its own.

    Args:
        patience_s: How long a call may take.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._calls: queue.SimpleQueue[tuple[Future[object], Callable[[], object]]]
        self._calls = queue.SimpleQueue()
        self.stuck = False
        # A daemon: one that an engine never gives back must not keep the process.
        threading.Thread(target=self._run, name="unillm-contract", daemon=True).start()

    def call(self, what: Callable[[], T], name: str) -> T:
        """Return what *what* returns, or raise what it raises.

        Raises:
            AssertionError: It has not come back in time, now or earlier.
        """
        assert not self.stuck, "an earlier call of the engine never came back"
        answer: Future[T] = Future()
        self._calls.put((answer, what))  # type: ignore[arg-type]
        try:
            return answer.result(self._patience_s)
        except TimeoutError:
            if answer.done():
                raise  # the call's own
            self.stuck = True
            raise AssertionError(
                f"{name} has not come back within {self._patience_s:g} s"
            ) from None

    def end(self) -> None:
        """Let the thread end when it has done its calls."""
        self._calls.put((Future(), _end))

    def _run(self) -> None:
        while True:
            answer, what = self._calls.get()
            if what is _end:
                return
            try:
                answer.set_result(what())
            except BaseException as error:  # noqa: BLE001 - the caller is told
                answer.set_exception(error)


def _end() -> None:
    raise AssertionError("a mark, never called")


@attrs.frozen
class Told:
    """What was told of one request."""

    outputs: Sequence[EngineOutput]
    """Copies, each made when it was told."""

    @property
    def token_ids(self) -> list[int]:
        """All new ids."""
        return [each for output in self.outputs for each in output.token_ids]

    @property
    def finish_reasons(self) -> list[FinishReason]:
        """One, if all is well."""
        return [o.finish_reason for o in self.outputs if o.finish_reason is not None]

    @property
    def finish_reason(self) -> FinishReason | None:
        """The first one."""
        return self.finish_reasons[0] if self.finish_reasons else None

    @property
    def stop_token_id(self) -> int | None:
        """As the output with the end has it."""
        ends = [o.stop_token_id for o in self.outputs if o.finish_reason is not None]
        return ends[0] if ends else None

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """All that were told."""
        return [each for output in self.outputs for each in output.logprobs or ()]

    @property
    def prompt_logprobs(self) -> Sequence[TokenLogprobs] | None:
        """Those of the first output that has any."""
        told = [o.prompt_logprobs for o in self.outputs]
        return next((each for each in told if each is not None), None)


class DrivenEngine:
    """An engine, and what it has told since `restart`.

    Args:
        engine: Under test; closed by `close`.
        patience_s: How long one call may take.
    """

    MAX_STEPS = 5_000
    """More than any clause needs."""

    def __init__(self, engine: Engine, patience_s: float) -> None:
        self.engine = engine
        self._thread = EngineThread(patience_s)
        self._outputs: list[EngineOutput] = []
        self.live_outputs: list[EngineOutput] = []
        """The objects that the engine gave, not copies."""

    # --------------------------------------------------------------- the engine's calls

    @property
    def limits(self) -> EngineLimits:
        """The engine's."""
        return self._thread.call(lambda: self.engine.limits, "limits")

    @property
    def capabilities(self) -> Capabilities:
        """The engine's own, without those of its backend."""
        return self._thread.call(lambda: self.engine.capabilities, "capabilities")

    @property
    def unfinished(self) -> bool:
        """Whether the engine has something to do."""
        return self._thread.call(self.engine.has_unfinished, "has_unfinished()")

    def add(self, *requests: EngineRequest) -> None:
        """Add requests, in their order."""
        for request in requests:
            self._thread.call(
                lambda request=request: self.engine.add_request(request),  # type: ignore[misc]
                "add_request()",
            )

    def step(self) -> list[EngineOutput]:
        """Step once, write down what was told, and return it."""
        return self._note(self._thread.call(self.engine.step, "step()"))

    def abort(self, *request_ids: str) -> None:
        """Abort requests."""
        self._thread.call(lambda: self.engine.abort(request_ids), "abort()")

    def close(self) -> None:
        """Close the engine, in its thread."""
        self._thread.call(self.engine.close, "close()")

    # ------------------------------------------------------------------------- together

    def run(self, *requests: EngineRequest) -> list[Told]:
        """Add requests, step until nothing is unfinished, and return what was told."""
        self.add(*requests)
        self.finish()
        return [self.told(request) for request in requests]

    def finish(self) -> None:
        """Step until nothing is unfinished.

        Raises:
            AssertionError: That took more steps than anything can need.
        """
        for _ in range(self.MAX_STEPS):
            if self._step_or_none() is None:
                return
        raise AssertionError(f"requests have not ended after {self.MAX_STEPS} steps")

    def step_until_begun(self, *requests: EngineRequest) -> None:
        """Step until each of *requests* has a new token."""
        self._step_until(lambda: all(self.told(r).token_ids for r in requests))

    def step_until_ended(self, *requests: EngineRequest) -> None:
        """Step until each of *requests* has ended, whatever else runs."""
        self._step_until(lambda: all(self.told(r).finish_reasons for r in requests))

    def _step_until(self, done: Callable[[], bool]) -> None:
        """Step until *done*, which is looked at before each step.

        Raises:
            AssertionError: It never came to that.
        """
        for _ in range(self.MAX_STEPS):
            if done():
                return
            told = self._step_or_none()
            assert told is not None, "the engine has nothing left to do"
        raise AssertionError(f"it has not come to that after {self.MAX_STEPS} steps")

    def _step_or_none(self) -> list[EngineOutput] | None:
        """Step once, as the driver does: not if nothing is unfinished."""

        def step() -> list[EngineOutput] | None:
            return self.engine.step() if self.engine.has_unfinished() else None

        outputs = self._thread.call(step, "step()")
        return None if outputs is None else self._note(outputs)

    def _note(self, outputs: list[EngineOutput]) -> list[EngineOutput]:
        """Write down what was told, in copies."""
        self.live_outputs += outputs
        copies = [
            attrs.evolve(
                output,
                token_ids=tuple(output.token_ids),
                logprobs=None if output.logprobs is None else tuple(output.logprobs),
            )
            for output in outputs
        ]
        self._outputs += copies
        return copies

    def told(self, request: EngineRequest | str) -> Told:
        """Return what was told of a request until now."""
        name = request if isinstance(request, str) else request.request_id
        return Told([o for o in self._outputs if o.request_id == name])

    @property
    def outputs(self) -> list[EngineOutput]:
        """All that was told until now, in its order."""
        return list(self._outputs)

    def restart(self) -> bool:
        """Make it ready for the next clause; false if it cannot be trusted with one."""
        self._outputs.clear()
        self.live_outputs.clear()
        return not self._thread.stuck and not self.unfinished

    def dispose(self) -> None:
        """Close it however it is, and do not wait for one that hangs."""
        try:
            if not self._thread.stuck:
                self.close()
        except Exception:  # noqa: BLE001, S110 - a clause has told of it, or will
            pass
        self._thread.end()
