# SPDX-License-Identifier: Apache-2.0

"""A: requests that are taken back."""

from __future__ import annotations

from .asking import COUNT, Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine


class AbortClauses:
    """The driver aborts what callers cancel and what a stop string has ended."""

    @clause()
    def test_a1_silence(self, engine: DrivenEngine, ask: Asker) -> None:
        """Nothing more is told of a request after it was aborted.

        Troubleshooting:
            Not even an output with ``finish_reason="abort"``: the driver has told the
            caller already. Drop what the engine still has in its pipeline.
        """
        aborted, other = ask(max_tokens=60, ignore_eos=True), ask()
        engine.add(aborted, other)
        engine.step_until_begun(aborted)
        before = len(engine.told(aborted).outputs)

        engine.abort(aborted.request_id)
        engine.finish()

        assert len(engine.told(aborted).outputs) == before
        assert engine.told(other).finish_reason == "stop"

    @clause()
    def test_a2_idle(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that was aborted is not unfinished any more.

        Troubleshooting:
            The driver steps as long as `has_unfinished` is true. An abort that gets
            lost leaves a request running for nobody.
        """
        request = ask(max_tokens=150, ignore_eos=True)
        engine.add(request)
        engine.step_until_begun(request)

        engine.abort(request.request_id)

        assert not engine.unfinished

    @clause()
    def test_a3_places(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """The place of an aborted request is free for others.

        Troubleshooting:
            Release whatever the request held. What leaks with each abort is used up
            after as many aborts as there are places.
        """
        seats = engine.limits.max_num_seqs
        for _ in range(2):
            requests = [ask(max_tokens=150, ignore_eos=True) for _ in range(seats)]
            engine.add(*requests)
            engine.step_until_begun(*requests)
            engine.abort(*(request.request_id for request in requests))
        requests = ask.different(2 * seats)

        engine.add(*requests)
        engine.step_until_ended(*requests)

        told = [engine.told(request).token_ids for request in requests]
        assert told == [oracle.token_ids(request) for request in requests]

    @clause()
    def test_a4_others(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """An abort changes nothing for the requests that run on.

        Troubleshooting:
            If rows move when one is freed, their state has to move with them.
        """
        requests = ask.different(engine.limits.max_num_seqs)
        aborted = ask(max_tokens=60, ignore_eos=True)
        engine.add(aborted, *requests)
        for _ in range(4):
            engine.step()

        engine.abort(aborted.request_id)
        engine.finish()

        told = [engine.told(request).token_ids for request in requests]
        assert told == [oracle.token_ids(request) for request in requests]

    @clause()
    def test_a5_waiting(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that waits can be aborted, and then never begins.

        Troubleshooting:
            Look in the queue too, not only at what runs.
        """
        seats = engine.limits.max_num_seqs
        running = [ask(max_tokens=8) for _ in range(seats)]
        waiting = ask(max_tokens=8)
        engine.add(*running, waiting)
        engine.step()

        engine.abort(waiting.request_id)
        engine.finish()

        assert engine.told(waiting).outputs == []
        assert all(engine.told(request).finish_reason for request in running)

    @clause()
    def test_a6_unknown(self, engine: DrivenEngine, ask: Asker) -> None:
        """Ids that are unknown, ended or already aborted are ignored.

        Troubleshooting:
            A caller may cancel at the moment of the end.
        """
        ended, aborted = ask(max_tokens=2), ask(max_tokens=50, ignore_eos=True)
        engine.run(ended)
        engine.add(aborted)
        engine.step()

        engine.abort("nobody", ended.request_id, aborted.request_id)
        engine.abort(aborted.request_id, aborted.request_id)

        assert not engine.unfinished

    @clause()
    def test_a7_the_same_id_again(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """An id can come again when its request has ended or was aborted.

        Troubleshooting:
            Ids are unique among the unfinished requests only.
        """
        engine.add(ask(COUNT, request_id="again", max_tokens=90, ignore_eos=True))
        engine.step()
        engine.abort("again")
        engine.run(ask("Add 8 and 30:", request_id="again", max_tokens=2))
        seen = len(engine.told("again").outputs)
        request = ask("Spell the word house:", request_id="again")

        engine.run(request)

        told = engine.told("again").outputs[seen:]
        ids = [token_id for output in told for token_id in output.token_ids]
        assert ids == oracle.token_ids(request)
