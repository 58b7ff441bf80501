# SPDX-License-Identifier: Apache-2.0

"""R: requests side by side, one after the other in the same place, and who is next."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ...engines.base import EngineRequest
from .asking import Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine


class RowClauses:
    """What a request says is a function of the request alone."""

    @clause()
    def test_r1_batch(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """Requests that run together say what each of them says alone.

        Troubleshooting:
            If two answers are exchanged, outputs are matched to the wrong rows. If one
            is nonsense, look at padding and masks of rows of different lengths.
        """
        requests = ask.different(engine.limits.max_num_seqs)

        told = engine.run(*requests)

        assert [t.token_ids for t in told] == [oracle.token_ids(r) for r in requests]

    @clause()
    def test_r2_more_than_fit(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """More requests than run together are all served, each as if it were alone.

        Troubleshooting:
            If only the later ones are wrong, see R4.
        """
        requests = ask.different(3 * engine.limits.max_num_seqs + 1)

        told = engine.run(*requests)

        assert [t.token_ids for t in told] == [oracle.token_ids(r) for r in requests]

    @clause()
    def test_r3_refill(self, engine: DrivenEngine, ask: Asker) -> None:
        """A place that becomes free is given to a waiting request while others run.

        Troubleshooting:
            A static batch has to be wrapped in one of unillm's schedulers, or it stands
            still until its longest row has ended.
        """
        seats = engine.limits.max_num_seqs
        if seats < 2:
            pytest.skip("it runs one request at a time")
        long = ask(max_tokens=150, ignore_eos=True)
        short = [ask(max_tokens=2) for _ in range(3 * seats)]

        engine.run(long, *short)

        ends = [o.request_id for o in engine.outputs if o.finish_reason is not None]
        assert ends[-1] == long.request_id

    @clause()
    def test_r4_last_owner(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """A request shows nothing of those that had its place before.

        Troubleshooting:
            What a row keeps goes with its owner: cache, lengths, last token, stop ids,
            random state. Longer predecessors show what was not overwritten.
        """
        seats = engine.limits.max_num_seqs
        before = [
            ask(
                ask.ids("Count from 40 to 52:") * 6,
                max_tokens=40,
                ignore_eos=True,
                stop_token_ids=[] if n % 2 else [999_999 % 512],
                min_tokens=30 if n % 2 else 0,
            )
            for n in range(seats)
        ]
        engine.run(*before)

        for requests in (ask.different(seats), ask.different(2 * seats)[seats:]):
            told = engine.run(*requests)

            assert [t.token_ids for t in told] == [
                oracle.token_ids(r) for r in requests
            ]

    @clause("repetition_penalty", "frequency_penalty", "presence_penalty")
    def test_r5_last_owners_penalties(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """Penalties count what the request itself has, nothing of the last owner.

        Troubleshooting:
            Clear the counts of a row when its request ends or is aborted.
        """
        fields = {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "max_tokens": 8}
        engine.run(*ask.different(2 * engine.limits.max_num_seqs, **fields))
        requests = ask.different(engine.limits.max_num_seqs, **fields)

        told = engine.run(*requests)

        assert [t.token_ids for t in told] == [oracle.token_ids(r) for r in requests]

    @clause("min_tokens", "stop_token_ids")
    def test_r6_own_params(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """Each of the requests that run together has its own params.

        Troubleshooting:
            An engine that takes one set of params for a batch needs them per row, or
            batches of equal params.
        """
        stop = oracle.token_ids(ask())[2]
        requests = [
            ask(),
            ask(max_tokens=3),
            ask(stop_token_ids=[stop]),
            ask("Add 17 and 25:", min_tokens=9),
            ask("Add 17 and 25:"),
        ]

        told = engine.run(*requests)

        assert [t.token_ids for t in told] == [oracle.token_ids(r) for r in requests]

    @clause()
    def test_r7_joining(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """A request that joins while others run changes nothing for them.

        Troubleshooting:
            Rows that are in the middle of decoding keep their state while a prompt is
            computed, also one that takes several steps.
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

        told = [engine.told(request).token_ids for request in requests]
        assert told == [oracle.token_ids(request) for request in requests]

    @clause()
    def test_r8_priority(self, engine: DrivenEngine, ask: Asker) -> None:
        """Of the requests that wait, the one with the lowest priority number is next.

        Troubleshooting:
            vLLM's meaning: lower is sooner. Engines with a queue of their own often
            have to be told to use priorities.
        """
        waiting = [ask(max_tokens=2, priority=number) for number in (5, 0, -3, 2)]

        order = self._order_of_start(engine, ask, waiting)

        assert order == [2, 1, 3, 0]

    @clause()
    def test_r9_arrival(self, engine: DrivenEngine, ask: Asker) -> None:
        """Of equal priorities, the request that arrived first is next.

        Troubleshooting:
            `EngineRequest.arrival` counts arrivals.
        """
        waiting = [ask(max_tokens=2) for _ in range(4)]

        order = self._order_of_start(engine, ask, waiting)

        assert order == [0, 1, 2, 3]

    @clause()
    def test_r10_the_least_urgent(self, engine: DrivenEngine, ask: Asker) -> None:
        """The least urgent request is served as soon as nothing else waits.

        Troubleshooting:
            A priority orders the queue; no number is too large to be served.
        """
        [told] = engine.run(ask(max_tokens=2, priority=1_000_000))
        assert told.finish_reason == "length"

        urgent = [ask(max_tokens=2, priority=0) for _ in range(6)]
        last = ask(max_tokens=2, priority=1_000_000)
        engine.run(last, *urgent)

        assert engine.told(last).finish_reason == "length"

    def _order_of_start(
        self, engine: DrivenEngine, ask: Asker, waiting: Sequence[EngineRequest]
    ) -> list[int]:
        """Return the order of the first tokens, where one place becomes free."""
        seats = engine.limits.max_num_seqs
        running = [ask(max_tokens=150, ignore_eos=True) for _ in range(seats)]
        engine.add(*running)
        engine.step_until_begun(*running)
        engine.add(*waiting)
        engine.step()
        engine.abort(running[0].request_id)  # one place, so they go one by one
        engine.step_until_ended(*waiting)
        engine.abort(*(request.request_id for request in running[1:]))
        names = [output.request_id for output in engine.outputs]
        return sorted(
            range(len(waiting)), key=lambda n: names.index(waiting[n].request_id)
        )
