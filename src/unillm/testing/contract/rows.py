# SPDX-License-Identifier: Apache-2.0

"""R: requests side by side, one after the other in a slot, and their order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ...engines.base import EngineRequest
from ..asking import Asker
from ..driving import DrivenEngine
from ..randomised.running import PREFIX_CACHING, RandomRun
from ..subject import Subject
from .clauses import clause
from .fixtures import Clauses

_RANDOM_REQUESTS = 48
"""Few enough for seconds. The frequencies of so few draws say little."""


class RowClauses(Clauses):
    """The tokens of a request depend on the request alone."""

    @clause()
    def test_r1_batch(self, engine: DrivenEngine, ask: Asker) -> None:
        """Requests that run together get the tokens that each gets alone.

        Troubleshooting: Swapped answers: outputs are matched to the wrong rows.
            Nonsense: check padding and masks of rows of different lengths.
        """
        requests = ask.different(engine.limits.max_num_seqs)

        engine.run(*requests)

        assert engine.ids(requests) == ask.answers(requests)

    @clause()
    def test_r2_more_than_fit(self, engine: DrivenEngine, ask: Asker) -> None:
        """More requests than fit are all served, each as if it were alone.

        Troubleshooting: If only the later ones are wrong, see R4.
        """
        requests = ask.different(3 * engine.limits.max_num_seqs + 1)

        engine.run(*requests)

        assert engine.ids(requests) == ask.answers(requests)

    @clause()
    def test_r3_refill(self, engine: DrivenEngine, ask: Asker) -> None:
        """A waiting request takes a freed slot while other requests run.

        Troubleshooting: Wrap a static batch in one of unillm's schedulers; otherwise it
            idles until its longest row has ended.
        """
        slots = engine.limits.max_num_seqs
        if slots < 2:
            pytest.skip("the engine runs one request at a time")
        long = ask.endless(engine.limits)
        short = [ask(max_tokens=2) for _ in range(3 * slots)]

        engine.run(long, *short)

        ends = [o.request_id for o in engine.outputs if o.finish_reason is not None]
        assert ends[-1] == long.request_id

    @clause()
    def test_r4_last_owner(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request shows nothing of the earlier owners of its slot.

        Troubleshooting: Clear with the owner: cache, lengths, last token, stop ids,
            random state. A longer predecessor shows what was not overwritten.
        """
        slots = engine.limits.max_num_seqs
        before = [
            ask(
                ask.ids("Count from 40 to 52:") * 6,
                max_tokens=40,
                ignore_eos=True,
                stop_token_ids=[] if n % 2 else [999_999 % 512],
                min_tokens=30 if n % 2 else 0,
            )
            for n in range(slots)
        ]
        engine.run(*before)

        for requests in (ask.different(slots), ask.different(2 * slots)[slots:]):
            engine.run(*requests)

            assert engine.ids(requests) == ask.answers(requests)

    @clause("repetition_penalty", "frequency_penalty", "presence_penalty")
    def test_r5_last_owners_penalties(self, engine: DrivenEngine, ask: Asker) -> None:
        """Penalties count the request's own tokens, none of the slot's last owner.

        Troubleshooting: Clear the counts of a row when its request ends or is aborted.
        """
        fields = {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "max_tokens": 8}
        engine.run(*ask.different(2 * engine.limits.max_num_seqs, **fields))
        requests = ask.different(engine.limits.max_num_seqs, **fields)

        engine.run(*requests)

        assert engine.ids(requests) == ask.answers(requests)

    @clause("min_tokens.stop_ids", "stop_token_ids")
    def test_r6_own_params(self, engine: DrivenEngine, ask: Asker) -> None:
        """Requests that run together each have their own params.

        Troubleshooting: An engine that takes one set of params for a batch needs them
            per row, or batches of equal params.
        """
        stop = ask.answer(ask())[2]
        requests = [
            ask(),
            ask(max_tokens=3),
            ask(stop_token_ids=[stop]),
            ask("Add 17 and 25:", min_tokens=9),
            ask("Add 17 and 25:"),
        ]

        engine.run(*requests)

        assert engine.ids(requests) == ask.answers(requests)

    @clause()
    def test_r7_joining(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that joins changes nothing for the running ones.

        Troubleshooting: Decoding rows keep their state while a prompt is computed, even
            over several steps.
        """
        requests = ask.different(6)
        long_prompt = ask(ask.ids("Repeat: blue cat über 🙂:") * 8, max_tokens=2)
        engine.add(requests[0])
        for request in requests[1:]:
            engine.step()
            engine.step()
            engine.add(request)
        engine.add(long_prompt)

        engine.finish()

        assert engine.ids(requests) == ask.answers(requests)

    @clause()
    def test_r8_priority(self, engine: DrivenEngine, ask: Asker) -> None:
        """The waiting request with the lowest priority number starts next.

        Troubleshooting: As in vLLM, lower is sooner. An engine with its own queue often
            needs an option for priorities.
        """
        waiting = [ask(max_tokens=2, priority=number) for number in (5, 0, -3, 2)]

        order = self._order_of_start(engine, ask, waiting)

        assert order == [2, 1, 3, 0]

    @clause()
    def test_r9_arrival(self, engine: DrivenEngine, ask: Asker) -> None:
        """Among equal priorities, the request that arrived first starts next.

        Troubleshooting: `EngineRequest.arrival` counts arrivals.
        """
        waiting = [ask(max_tokens=2) for _ in range(4)]

        order = self._order_of_start(engine, ask, waiting)

        assert order == [0, 1, 2, 3]

    @clause()
    def test_r10_the_least_urgent(self, engine: DrivenEngine, ask: Asker) -> None:
        """The least urgent request is served once no other request waits.

        Troubleshooting: A priority only orders the queue; no number is too large.
        """
        [result] = engine.run(ask(max_tokens=2, priority=1_000_000))
        assert result.finish_reason == "length"

        urgent = [ask(max_tokens=2, priority=0) for _ in range(6)]
        last = ask(max_tokens=2, priority=1_000_000)
        engine.run(last, *urgent)

        assert engine.result(last).finish_reason == "length"

    @clause()
    def test_r11_random(self, subject: Subject) -> None:
        """Random requests, which join, leave and begin again, get the model's tokens.

        Each token is judged by the rules of all fields together.

        Troubleshooting: The message ends with a program that repeats the fault.
            `unillm conformance NAME --random 10000` runs more of them.
        """
        _assert_random(subject, seed=11)

    @clause()
    def test_r12_prefix_caching(self, subject: Subject) -> None:
        """With `enable_prefix_caching` random requests get the model's tokens too.

        Troubleshooting: A cached block belongs to all ids up to its end. At least the
            last token of a prompt is always computed.
        """
        if PREFIX_CACHING not in subject.backend.engine_options:
            pytest.skip(f"not declared: {PREFIX_CACHING} (not in engine_options)")
        before = subject.options
        subject.close()
        if not subject.takes(**{PREFIX_CACHING: True}):
            pytest.skip(f"not declared: {PREFIX_CACHING} (refused with these options)")
        subject.options = {**before, PREFIX_CACHING: True}
        try:
            _assert_random(subject, seed=12)
        finally:
            subject.options = before
            subject.close()

    def _order_of_start(
        self, engine: DrivenEngine, ask: Asker, waiting: Sequence[EngineRequest]
    ) -> list[int]:
        """Return the order of the first tokens after one slot becomes free."""
        slots = engine.limits.max_num_seqs
        running = [ask.endless(engine.limits) for _ in range(slots)]
        engine.add(*running)
        engine.step_until_begun(*running)
        engine.add(*waiting)
        engine.step()
        engine.abort(running[0].request_id)  # one slot, so they start one by one
        engine.step_until_ended(*waiting)
        engine.abort(*(request.request_id for request in running[1:]))
        names = [output.request_id for output in engine.outputs]
        return sorted(
            range(len(waiting)), key=lambda n: names.index(waiting[n].request_id)
        )


def _assert_random(subject: Subject, *, seed: int) -> None:
    report = RandomRun(subject, seed=seed).run(_RANDOM_REQUESTS)
    assert report.conforms, f"{report.fault}\n\n{report.program}"
