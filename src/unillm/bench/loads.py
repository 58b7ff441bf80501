# SPDX-License-Identifier: Apache-2.0

"""Loads: work given to an engine or to a server, with the time of each request.

`EngineLoad` drives a `Generator` of this process. `unillm.bench.client` has the same
methods over HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from .samples import Run, Sample
from .workloads import BATCH, OPEN, Ask, Case

if TYPE_CHECKING:
    from .. import Generator, RequestOutput, SamplingParams

_PATIENCE_S = 0.002
"""A sleep of an event loop may end this much too late; the rest is waited in turns."""


class EngineLoad:
    """Loads for a `Generator` of this process."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def run(self, case: Case, asks: Sequence[Ask]) -> Run:
        """Serve the asks of one round, and return what was observed."""
        if case.kind == BATCH:
            return self._batch(asks)
        return asyncio.run(in_flight(case, asks, self._stream))

    def _batch(self, asks: Sequence[Ask]) -> Run:
        prompts = [ask.prompt for ask in asks]
        params = [params_of(ask) for ask in asks]
        begun = time.monotonic()
        outcomes = self._generator.generate(
            prompts, params, on_error="return", use_tqdm=False
        )
        seconds = time.monotonic() - begun
        samples = [
            sample_of(outcome, ask, begun)
            for outcome, ask in zip(outcomes, asks, strict=True)
        ]
        return Run(samples=samples, seconds=seconds)

    async def _stream(self, ask: Ask, begun: float) -> Sample:
        """Serve one ask in an event loop."""
        try:
            handle = self._generator.submit(ask.prompt, params_of(ask))
            gaps = await gaps_of(len(delta.token_ids) async for delta in handle)
            return sample_of(await handle, ask, begun, gaps=gaps)
        except Exception as error:  # noqa: BLE001 - a failed request is a result
            return sample_of(error, ask, begun)


def params_of(ask: Ask) -> SamplingParams:
    """Return the params of an ask: greedy, and all its tokens whatever they are."""
    from .. import SamplingParams

    return SamplingParams(temperature=0, max_tokens=ask.max_tokens, ignore_eos=True)


def sample_of(
    outcome: RequestOutput | Exception,
    ask: Ask,
    begun: float,
    *,
    gaps: Sequence[float] = (),
) -> Sample:
    """Return the sample of a request that a `Generator` served.

    Args:
        outcome: The result, or the error of the request.
        ask: The request.
        begun: Start of the run on the clock of `time.monotonic`.
        gaps: Seconds between its tokens.
    """
    if isinstance(outcome, Exception):
        return Sample(error=f"{type(outcome).__name__}: {outcome}")
    metrics = outcome.metrics
    assert metrics is not None
    first, last = metrics.first_token_ts, metrics.last_token_ts
    slots = metrics.slots
    return Sample(
        token_ids=outcome.token_ids,
        reported_tokens=metrics.num_generation_tokens,
        num_prompt_tokens=len(outcome.prompt_token_ids),
        same_prompt=_is_same(outcome.prompt_token_ids, ask.prompt),
        num_cached_tokens=outcome.num_cached_tokens,
        finish_reason=outcome.finish_reason,
        sent_s=metrics.queued_ts - begun,
        first_s=None if first is None else first - begun,
        last_s=None if last is None else last - begun,
        gaps=gaps,
        slot=None if slots is None else slots.slot,
        padding=0 if slots is None else slots.prefill_padding,
        decode_steps=0 if slots is None else slots.decode_steps,
    )


def _is_same(found: Sequence[int], asked: Any) -> bool | None:
    return list(found) == asked if isinstance(asked, list) else None


async def gaps_of(counts: AsyncIterator[int]) -> list[float]:
    """Read a stream of numbers of new tokens; return the seconds between tokens."""
    gaps: list[float] = []
    before: float | None = None
    async for count in counts:
        if not count:
            continue
        now = time.monotonic()
        if before is not None:
            gaps.append(now - before)
        gaps += [0.0] * (count - 1)
        before = now
    return gaps


async def in_flight(
    case: Case, asks: Sequence[Ask], serve: Callable[[Ask, float], Awaitable[Sample]]
) -> Run:
    """Serve asks at their arrival times, or a fixed number of them at a time."""
    limit = len(asks) if case.kind == OPEN else int(case.size)
    begun = time.monotonic()
    places = asyncio.Semaphore(limit)

    async def one(ask: Ask) -> Sample:
        async with places:
            if ask.at_s is not None:
                await _sleep_until(begun + ask.at_s)
            return await serve(ask, begun)

    samples = await asyncio.gather(*(one(ask) for ask in asks))
    return Run(samples=samples, seconds=time.monotonic() - begun)


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic() - _PATIENCE_S))
    while time.monotonic() < due:  # noqa: ASYNC110 - a time, not an event
        await asyncio.sleep(0)
