# SPDX-License-Identifier: Apache-2.0

"""E: how a request ends, and what is told until then."""

from __future__ import annotations

import attrs

from .asking import COUNT, Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine


class EndClauses:
    """Each request alone; what lies beside it is the business of `RowClauses`."""

    @clause()
    def test_e1_ends_once(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request ends exactly once, and nothing is told of it afterwards.

        Troubleshooting:
            The output that has the last new ids has the `finish_reason` too. Forget
            the request when that was told, and never tell of ids that you don't know.
        """
        requests = [
            ask(prompt.prompt_token_ids, max_tokens=limit)
            for limit, prompt in zip(
                (1, 3, 64, 9, 5, 64), ask.different(6), strict=True
            )
        ]

        told = engine.run(*requests)

        for each in told:
            assert len(each.finish_reasons) == 1
            assert each.outputs[-1].finish_reason is not None
        names = {request.request_id for request in requests}
        assert {output.request_id for output in engine.outputs} == names

    @clause()
    def test_e2_new_ids(self, engine: DrivenEngine, ask: Asker, oracle: Oracle) -> None:
        """The ids told of a request, joined, are what the model says after the prompt.

        None of the prompt is among them, none is left out, none comes twice, and the
        one that ended the request is the last.

        Troubleshooting:
            If all but the last id are right, the end id was dropped: many engines
            leave it out of their outputs. If ids repeat, outputs are cumulative.
        """
        for request in ask.different(4):
            [told] = engine.run(request)

            assert told.token_ids == oracle.token_ids(request)

    @clause()
    def test_e3_stop_is_named(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that a stop id ends says "stop" and names the id.

        Troubleshooting:
            `EngineOutput.stop_token_id` is the last of the new ids, whether it is one
            of the model's own or one that the user gave.
        """
        [told] = engine.run(ask())

        assert (told.finish_reason, told.stop_token_id) == ("stop", told.token_ids[-1])
        assert told.stop_token_id in ask.end_ids

    @clause()
    def test_e4_length(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that nothing stops ends with "length" after `max_new_tokens` ids.

        Troubleshooting:
            The first new token, which follows from the prompt, counts too.
        """
        for limit in (1, 2, 7):
            [told] = engine.run(ask(max_tokens=limit))

            assert (told.finish_reason, len(told.token_ids)) == ("length", limit)

    @clause()
    def test_e5_only_stops_are_named(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that no stop id ended has no `stop_token_id`.

        Troubleshooting:
            Set it only with ``finish_reason="stop"``.
        """
        [told] = engine.run(ask(max_tokens=5))

        assert {output.stop_token_id for output in told.outputs} == {None}

    @clause()
    def test_e6_stop_at_the_limit(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """A stop id that comes as the last token allowed is a "stop", not a "length".

        Troubleshooting:
            Look for stop ids before counting.
        """
        whole = oracle.token_ids(ask())

        [told] = engine.run(ask(max_tokens=len(whole)))

        assert told.token_ids == whole
        assert (told.finish_reason, told.stop_token_id) == ("stop", whole[-1])

    @clause("stop_token_ids")
    def test_e7_every_stop_id(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """Each id of `stop_token_ids` ends a request, the first that comes.

        Troubleshooting:
            The set is the union of the model's ids and the user's. An engine that takes
            a single end id needs the others checked after each step.
        """
        whole = oracle.token_ids(ask())
        unused = sorted(set(range(40, 60)) - set(whole))
        early, late = whole[2], whole[6]
        for ids, last in (
            ([early], early),
            ([*unused, late], late),
            ([late, early], early),
            (unused, whole[-1]),
        ):
            expected = whole[: whole.index(last) + 1]

            [told] = engine.run(ask(stop_token_ids=ids))

            assert told.token_ids == expected
            assert (told.finish_reason, told.stop_token_id) == ("stop", last)

    @clause("ignore_eos")
    def test_e8_ignored_ends(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """An end id of the model that is not among `stop_token_ids` ends nothing.

        Troubleshooting:
            Under `ignore_eos` the core leaves the model's ids out of `stop_token_ids`.
            The engine must not add its own idea of them.
        """
        natural = oracle.token_ids(ask())
        request = ask(ignore_eos=True, max_tokens=len(natural) + 2)

        [told] = engine.run(request)

        assert told.token_ids == oracle.token_ids(request)
        assert told.token_ids[: len(natural)] == natural
        assert told.finish_reason == "length"

    @clause("min_tokens")
    def test_e9_min_tokens(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """Before `min_tokens` new tokens no stop id is chosen and nothing ends.

        The prompt does not count, and the first token after them may be a stop id.

        Troubleshooting:
            Mask all of `stop_token_ids` while fewer than `min_tokens` are generated.
        """
        natural = len(oracle.token_ids(ask("Add 17 and 25:")))
        for least in (natural, natural + 4, natural + 9):
            request = ask("Add 17 and 25:", min_tokens=least)

            [told] = engine.run(request)

            assert len(told.token_ids) >= least
            assert not request.stop_token_ids & set(told.token_ids[:least])
            assert told.token_ids == oracle.token_ids(request)

    @clause()
    def test_e10_idle(self, engine: DrivenEngine, ask: Asker) -> None:
        """An engine with nothing to do says so, and `step` returns nothing at once.

        Troubleshooting:
            `has_unfinished` is false before the first request and after the end of the
            last was told. An engine whose own `step` waits for work needs a guard.
        """
        assert not engine.unfinished
        engine.run(ask(max_tokens=2))
        assert not engine.unfinished

        assert engine.step() == []

    @clause()
    def test_e11_unfinished(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request is unfinished from `add_request` until its end has been told.

        Troubleshooting:
            The driver stops stepping when `has_unfinished` is false, so ends that are
            known but not told yet count as unfinished.
        """
        request = ask(max_tokens=6)
        engine.add(request)

        while engine.told(request).finish_reason is None:
            assert engine.unfinished
            engine.step()

        assert not engine.unfinished

    @clause()
    def test_e12_values_stay(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request is not changed, and an output does not change after it was told.

        Troubleshooting:
            Copy lists that the engine goes on writing to, and never write into
            `EngineRequest` or `SamplingParams`: they belong to the caller.
        """
        request = ask(max_tokens=6, stop_token_ids=[7, 5])
        before = attrs.asdict(request), request.params
        told = engine.run(request, ask(max_tokens=4))

        assert (attrs.asdict(request), request.params) == before
        assert request.params is before[1]
        live = [list(output.token_ids) for output in engine.live_outputs]
        assert live == [list(output.token_ids) for output in engine.outputs]
        assert len(told) == 2

    @clause()
    def test_e13_the_shortest_prompt(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """A prompt of a single id is served.

        Troubleshooting:
            Not even a beginning-of-text id is added: prompts arrive complete.
        """
        request = ask(ask.ids(COUNT)[:1], max_tokens=1)
        logits = oracle.scores(request)

        [told] = engine.run(request)

        # The model was never trained on this, so near-ties count as right.
        assert logits[told.token_ids[0]] > logits.max() - 0.01
