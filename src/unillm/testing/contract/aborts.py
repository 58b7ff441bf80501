# SPDX-License-Identifier: Apache-2.0

"""A: aborted requests."""

from __future__ import annotations

from ..asking import COUNT, Asker
from ..driving import DrivenEngine
from .clauses import clause
from .fixtures import Clauses


class AbortClauses(Clauses):
    """The driver aborts requests that a caller cancels or a stop string ends."""

    @clause()
    def test_a1_silence(self, engine: DrivenEngine, ask: Asker) -> None:
        """An aborted request has no further outputs.

        Troubleshooting: Not even one with ``finish_reason="abort"``: the driver has
            ended the request. Drop its tokens from the pipeline.
        """
        aborted, other = ask(max_tokens=60, ignore_eos=True), ask()
        engine.add(aborted, other)
        engine.step_until_begun(aborted)
        before = len(engine.result(aborted).outputs)

        engine.abort(aborted.request_id)
        engine.finish()

        assert len(engine.result(aborted).outputs) == before
        assert engine.result(other).finish_reason == "stop"

    @clause()
    def test_a2_idle(self, engine: DrivenEngine, ask: Asker) -> None:
        """An aborted request is no longer unfinished.

        Troubleshooting: The driver steps while `has_unfinished` is true; a lost abort
            keeps a request running without a reader.
        """
        request = ask(max_tokens=150, ignore_eos=True)
        engine.add(request)
        engine.step_until_begun(request)

        engine.abort(request.request_id)

        assert not engine.unfinished

    @clause()
    def test_a3_slots(self, engine: DrivenEngine, ask: Asker) -> None:
        """Other requests can use the slot of an aborted request.

        Troubleshooting: Release everything that the request held. With a leak, the
            engine stalls after as many aborts as it has slots.
        """
        slots = engine.limits.max_num_seqs
        for _ in range(2):
            requests = [ask(max_tokens=150, ignore_eos=True) for _ in range(slots)]
            engine.add(*requests)
            engine.step_until_begun(*requests)
            engine.abort(*(request.request_id for request in requests))
        requests = ask.different(2 * slots)

        engine.add(*requests)
        engine.step_until_ended(*requests)

        assert engine.ids(requests) == ask.answers(requests)

    @clause()
    def test_a4_others(self, engine: DrivenEngine, ask: Asker) -> None:
        """An abort changes nothing for the requests that keep running.

        Troubleshooting: If freeing a row moves other rows, move their state too.
        """
        requests = ask.different(engine.limits.max_num_seqs)
        aborted = ask(max_tokens=60, ignore_eos=True)
        engine.add(aborted, *requests)
        for _ in range(4):
            engine.step()

        engine.abort(aborted.request_id)
        engine.finish()

        assert engine.ids(requests) == ask.answers(requests)

    @clause()
    def test_a5_waiting(self, engine: DrivenEngine, ask: Asker) -> None:
        """A waiting request can be aborted and then never starts.

        Troubleshooting: Search the queue as well as the running requests.
        """
        slots = engine.limits.max_num_seqs
        running = [ask(max_tokens=8) for _ in range(slots)]
        waiting = ask(max_tokens=8)
        engine.add(*running, waiting)
        engine.step()

        engine.abort(waiting.request_id)
        engine.finish()

        assert engine.result(waiting).outputs == []
        assert all(engine.result(request).finish_reason for request in running)

    @clause()
    def test_a6_unknown(self, engine: DrivenEngine, ask: Asker) -> None:
        """Unknown, ended and already aborted ids are ignored.

        Troubleshooting: A caller may cancel a request at the moment of its end.
        """
        ended, aborted = ask(max_tokens=2), ask(max_tokens=50, ignore_eos=True)
        engine.run(ended)
        engine.add(aborted)
        engine.step()

        engine.abort("unknown", ended.request_id, aborted.request_id)
        engine.abort(aborted.request_id, aborted.request_id)

        assert not engine.unfinished

    @clause()
    def test_a7_the_same_id_again(self, engine: DrivenEngine, ask: Asker) -> None:
        """An id can be used again once its request has ended or was aborted.

        Troubleshooting: Ids are unique among unfinished requests only.
        """
        engine.add(ask(COUNT, request_id="again", max_tokens=90, ignore_eos=True))
        engine.step()
        engine.abort("again")
        engine.run(ask("Add 8 and 30:", request_id="again", max_tokens=2))
        seen = len(engine.result("again").outputs)
        request = ask("Spell the word house:", request_id="again")

        engine.run(request)

        results = engine.result("again").outputs[seen:]
        ids = [token_id for output in results for token_id in output.token_ids]
        assert ids == ask.answer(request)
