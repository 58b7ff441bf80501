# SPDX-License-Identifier: Apache-2.0

"""`simulate`: random traffic, turns of the real driver, and the history of both."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import attrs

from unillm.config import EngineConfig
from unillm.engines.base import (
    SAMPLING_FIELDS,
    Capabilities,
    Engine,
    EngineLimits,
)
from unillm.engines.batches import BatchTraits, PromptWork
from unillm.errors import QueueFullError, UnillmError
from unillm.outputs import RequestOutput
from unillm.params import SamplingParams
from unillm.runtime.driver import Driver
from unillm.runtime.handle import RequestHandle
from unillm.runtime.requests import RequestMaker
from unillm.scheduling.runs import RunScheduler
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.batches import StepCosts
from unillm.text.eos import resolve_eos
from unillm.text.generation_config import ModelDefaults
from unillm.text.loading import ModelText, load_tokenizer

from .engines import (
    Failing,
    Fault,
    RecordedEngine,
    SimulatedBatchEngine,
    SimulatedSlotEngine,
)
from .history import History
from .traffic import VOCAB_SIZE, Job, Letters, draw_job

TURN_S = 1.0
"""Simulated seconds that a turn of the loop takes."""

STEP_TIMEOUT_S = 50.0
"""Simulated seconds after which the watchdog declares the engine dead."""

MOST_TURNS = 1_000_000
"""A world that takes more turns than this makes no progress."""


@attrs.frozen(kw_only=True)
class World:
    """The numbers of a run, drawn from its seed."""

    seed: int
    num_requests: int
    scheduler: str
    """``"slots"``, or ``"runs"`` of a static batch."""
    can_stop: bool
    """Whether a run of a static batch can be stopped."""
    prompt_work: str
    """How a static batch computes its prompts."""
    num_slots: int
    max_model_len: int
    max_num_batched_tokens: int
    max_queued_requests: int
    max_queued_tokens: int
    load: float
    """Requests that arrive in a turn, on average."""
    faults: bool

    @classmethod
    def of(cls, seed: int, num_requests: int, *, faults: bool = True) -> World:
        """Draw the world of a seed."""
        rng = random.Random(f"world {seed}")
        num_slots = rng.choice((1, 2, 3, 4, 8, 16, 32, 64))
        return cls(
            seed=seed,
            num_requests=num_requests,
            scheduler=rng.choice(("slots", "runs")),
            can_stop=rng.random() < 0.7,
            prompt_work=rng.choice([work.value for work in PromptWork]),
            num_slots=num_slots,
            max_model_len=rng.choice((8, 32, 64)),
            max_num_batched_tokens=rng.choice((1, 7, 64, 2048)),
            max_queued_requests=rng.choice((8, 1000, 10**5)),
            max_queued_tokens=rng.choice((256, 10**4, 10**6)),
            # From half idle to an overload.
            load=num_slots / 8 * rng.choice((0.4, 0.8, 1.2)),
            faults=faults,
        )


def simulate(world: World) -> History:
    """Run a world until all of its requests have ended."""
    return _Run(world).run()


@attrs.define(eq=False)
class _Asked:
    """An accepted request that has not ended."""

    job: Job
    handle: RequestHandle
    accepted_at: int
    cancelled: bool = False


class _Run:
    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"run {world.seed}")
        self._history = History()
        self._now = 0.0
        self._turn = 0
        self._submitted = 0
        self._asked: dict[int, _Asked] = {}
        self._refused: set[str] = set()
        self._history.note("world", attrs.asdict(world))
        self._engine: SimulatedSlotEngine | SimulatedBatchEngine
        self._requests = self._maker()
        self._begin()

    def _maker(self) -> RequestMaker:
        tokenizer = load_tokenizer(Letters())
        return RequestMaker(
            EngineConfig(model="simulated", path=Path()),
            ModelText(
                tokenizer=tokenizer,
                eos=resolve_eos(tokenizer),
                model_config={},
                defaults=ModelDefaults(),
            ),
            EngineLimits(
                max_model_len=self._world.max_model_len,
                max_num_seqs=self._world.num_slots,
                vocab_size=VOCAB_SIZE,
            ),
            capabilities=Capabilities.native(*SAMPLING_FIELDS),
            clock=lambda: self._now,
        )

    def run(self) -> History:
        while self._submitted < self._world.num_requests or self._asked:
            assert self._turn < MOST_TURNS, "the world makes no progress"
            self._turn += 1
            self._now += TURN_S
            for _ in range(self._arrivals()):
                self._submit()
            self._cancel_some()
            going = self._driver.turn(block=False)
            self._note_ends()
            if not going:
                self._note_rest()
                self._history.note("epoch")
                self._begin()
        self._driver.turn(block=False)  # takes in the last cancellations
        self._note_rest()
        self._driver.close()
        self._note_rest()
        return self._history

    # ------------------------------------------------------------------------ engines

    def _begin(self) -> None:
        """Make a driver over a new engine, with a plan of its failures."""
        world, rng = self._world, self._rng
        fails = world.faults and rng.random() < 0.8
        failing = Failing(
            at_call=rng.randint(1, 400) if fails else -1,
            fault=rng.choice(list(Fault)),
            row_chance=rng.choice((0.0, 0.002)) if world.faults else 0.0,
            rng=rng,
            hang=self._hang,
            history=self._history,
        )
        engine = RecordedEngine(
            self._slots(failing) if world.scheduler == "slots" else self._runs(failing),
            self._history,
            refused=self._refused.__contains__,
        )
        self._driver = Driver(
            lambda: engine,
            max_queued_requests=world.max_queued_requests,
            max_queued_tokens=world.max_queued_tokens,
            step_timeout_s=STEP_TIMEOUT_S,
            clock=lambda: self._now,
            threaded=False,
        )

    def _slots(self, failing: Failing) -> Engine:
        world = self._world
        self._engine = SimulatedSlotEngine(
            failing,
            self._history,
            num_slots=world.num_slots,
            max_model_len=world.max_model_len,
        )
        return SlotScheduler(
            self._engine, max_num_batched_tokens=world.max_num_batched_tokens
        )

    def _runs(self, failing: Failing) -> Engine:
        world = self._world
        self._engine = engine = SimulatedBatchEngine(
            failing,
            self._history,
            num_rows=world.num_slots,
            max_model_len=world.max_model_len,
            traits=BatchTraits(
                can_stop=world.can_stop, prompt_work=PromptWork(world.prompt_work)
            ),
            costs=StepCosts(
                row_s=self._rng.choice((0.0, 0.2)),
                call_s=self._rng.choice((0.1, 2.0)),
                prompt_token_s=self._rng.choice((0.001, 0.1, 2.0)),
            ),
        )
        return RunScheduler(engine, clock=engine.clock)

    def _hang(self) -> None:
        """Let time pass until the watchdog's time-out, while the engine is in a call."""
        self._now += STEP_TIMEOUT_S + 1
        self._driver.check_hang()
        self._note_ends()

    # ------------------------------------------------------------------------ callers

    def _arrivals(self) -> int:
        """Draw how many requests arrive: a few, none, or a burst."""
        left = self._world.num_requests - self._submitted
        whole, part = divmod(self._world.load, 1)
        count = int(whole) + (self._rng.random() < part)
        if self._rng.random() < 0.01:
            count += self._rng.randint(1, 3 * self._world.num_slots)
        return min(count, left)

    def _submit(self) -> None:
        number = self._submitted
        self._submitted += 1
        job = draw_job(self._rng, self._world.max_model_len)
        self._history.note("submit", number, attrs.asdict(job), self._now)
        handle = self._handle(job)
        try:
            self._driver.submit(handle, block=False)
        except QueueFullError as error:
            self._history.note("refuse", number, type(error).__name__)
            return
        if job.refused:
            self._refused.update(c.request.request_id for c in handle.completions)
        self._asked[number] = _Asked(job, handle, self._turn)

    def _handle(self, job: Job) -> RequestHandle:
        number = self._submitted - 1
        params = SamplingParams(
            n=len(job.seeds),
            seed=job.seeds[0],
            max_tokens=job.max_tokens,
            min_tokens=job.min_tokens,
            stop=job.stop,
            stop_token_ids=job.stop_token_ids,
            ignore_eos=job.ignore_eos,
        )
        prompt = [1 + (number + i) % 26 for i in range(job.prompt_length)]
        return self._requests.make(
            prompt, params, priority=job.priority, timeout_s=job.patience
        )

    def _cancel_some(self) -> None:
        for number, asked in self._asked.items():
            after = asked.job.cancel_after
            if after is not None and self._turn - asked.accepted_at >= after:
                self._history.note("cancel", number, self._now)
                asked.handle.cancel()

    # --------------------------------------------------------------------------- ends

    def _note_ends(self) -> None:
        ended = [n for n, asked in self._asked.items() if asked.handle.done()]
        for number in ended:
            handle = self._asked.pop(number).handle
            error, output = "", None
            try:
                output = handle.result()
            except UnillmError as raised:
                error = type(raised).__name__
                output = getattr(raised, "output", None)
            outputs = tuple(_facts(output)) if output is not None else ()
            self._history.note("end", number, self._now, error, outputs)

    def _note_rest(self) -> None:
        """Record the sizes of all maps, which should be empty."""
        stats = self._driver.stats()
        self._history.note(
            "rest",
            {
                "queued": stats["queued"],
                "queued tokens": stats["queued_tokens"],
                "live": stats["live"],
                "deadlines": stats["deadlines"],
                "asked": len(self._asked),
                "rows": self._engine.rows_in_use,
            },
        )


def _facts(output: RequestOutput) -> Iterator[tuple[object, ...]]:
    for each in output.outputs:
        yield tuple(each.token_ids), each.text, each.finish_reason, each.stop_reason
