# SPDX-License-Identifier: Apache-2.0

"""E: the new ids of a request, and its end."""

from __future__ import annotations

import attrs

from ..asking import COUNT, Asker
from ..driving import DrivenEngine
from ..randomised.judging import Judge
from .clauses import clause
from .fixtures import Clauses


class EndClauses(Clauses):
    """Each request alone; `RowClauses` are about its neighbours."""

    @clause()
    def test_e1_ends_once(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request ends exactly once, and no output follows its end.

        Troubleshooting: Set `finish_reason` on the output that carries the last new
            ids, then forget the request. Ignore ids that you don't know.
        """
        requests = [
            ask(prompt.prompt_token_ids, max_tokens=limit)
            for limit, prompt in zip(
                (1, 3, 64, 9, 5, 64), ask.different(6), strict=True
            )
        ]

        results = engine.run(*requests)

        for each in results:
            assert len(each.finish_reasons) == 1
            assert each.outputs[-1].finish_reason is not None
        names = {request.request_id for request in requests}
        assert {output.request_id for output in engine.outputs} == names

    @clause()
    def test_e2_new_ids(self, engine: DrivenEngine, ask: Asker) -> None:
        """The outputs of a request, joined, are the model's tokens after the prompt.

        They omit and repeat nothing, leave out the prompt, and end with the id that
        ended the request.

        Troubleshooting: If only the last id is missing, the engine drops the EOS token,
            as many engines do. If ids repeat, the outputs are cumulative.
        """
        for request in ask.different(4):
            [result] = engine.run(request)

            assert result.token_ids == ask.answer(request)

    @clause()
    def test_e3_stop_is_named(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that a stop id ends has the reason "stop" and names the id.

        Troubleshooting: `EngineOutput.stop_token_id` is the last new id, whether the
            model or the user declares it.
        """
        [result] = engine.run(ask())

        assert result.finish_reason == "stop"
        assert result.stop_token_id == result.token_ids[-1]
        assert result.stop_token_id in ask.eos_ids

    @clause()
    def test_e4_length(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that nothing stops ends with "length" after `max_new_tokens` ids.

        Troubleshooting: The first new token, which follows from the prompt, counts too.
        """
        for limit in (1, 2, 7):
            [result] = engine.run(ask(max_tokens=limit))

            assert (result.finish_reason, len(result.token_ids)) == (
                "length",
                limit,
            )

    @clause()
    def test_e5_only_stops_are_named(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that no stop id ended has no `stop_token_id`.

        Troubleshooting: Set it only with ``finish_reason="stop"``.
        """
        [result] = engine.run(ask(max_tokens=5))

        assert {output.stop_token_id for output in result.outputs} == {None}

    @clause()
    def test_e6_stop_at_the_limit(self, engine: DrivenEngine, ask: Asker) -> None:
        """A stop id as the last allowed token gives "stop", not "length".

        Troubleshooting: Check stop ids before the count.
        """
        whole = ask.answer(ask())

        [result] = engine.run(ask(max_tokens=len(whole)))

        assert result.token_ids == whole
        assert (result.finish_reason, result.stop_token_id) == ("stop", whole[-1])

    @clause("stop_token_ids")
    def test_e7_every_stop_id(self, engine: DrivenEngine, ask: Asker) -> None:
        """Every id of `stop_token_ids` ends a request, at its first appearance.

        Troubleshooting: The set is the union of the model's ids and the user's. If the
            engine takes a single EOS id, check the others after each step.
        """
        whole = ask.answer(ask())
        unused = sorted(set(range(40, 60)) - set(whole))
        early, late = whole[2], whole[6]
        for ids, last in (
            ([early], early),
            ([*unused, late], late),
            ([late, early], early),
            (unused, whole[-1]),
        ):
            expected = whole[: whole.index(last) + 1]

            [result] = engine.run(ask(stop_token_ids=ids))

            assert result.token_ids == expected
            assert (result.finish_reason, result.stop_token_id) == ("stop", last)

    @clause("ignore_eos")
    def test_e8_ignored_ends(self, engine: DrivenEngine, ask: Asker) -> None:
        """An EOS id of the model that is not in `stop_token_ids` ends nothing.

        Troubleshooting: Under `ignore_eos` the core leaves the model's ids out of
            `stop_token_ids`; the engine must not add its own.
        """
        natural = ask.answer(ask())
        request = ask(ignore_eos=True, max_tokens=len(natural) + 2)

        [result] = engine.run(request)

        assert result.token_ids == ask.answer(request)
        assert result.token_ids[: len(natural)] == natural
        assert result.finish_reason == "length"

    @clause("min_tokens", "min_tokens.stop_ids")
    def test_e9_min_tokens(self, engine: DrivenEngine, ask: Asker) -> None:
        """Before `min_tokens` new tokens, no stop id is sampled and nothing ends.

        The prompt does not count, and the token after them may be a stop id.

        Troubleshooting: Mask all of `stop_token_ids` until the request has `min_tokens`
            new tokens.
        """
        natural = len(ask.answer(ask("Add 17 and 25:")))
        for least in (natural, natural + 4, natural + 9):
            request = ask("Add 17 and 25:", min_tokens=least)

            [result] = engine.run(request)

            assert len(result.token_ids) >= least
            assert not request.stop_token_ids & set(result.token_ids[:least])
            assert result.token_ids == ask.answer(request)

    @clause()
    def test_e10_idle(self, engine: DrivenEngine, ask: Asker) -> None:
        """An engine without requests is idle, and `step` returns an empty list at once.

        Troubleshooting: `has_unfinished` is false before the first request and after
            the last end was returned. Guard an engine whose own `step` waits for work.
        """
        assert not engine.unfinished
        engine.run(ask(max_tokens=2))
        assert not engine.unfinished

        assert engine.step() == []

    @clause()
    def test_e11_unfinished(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request is unfinished from `add_request` until `step` returns its end.

        Troubleshooting: The driver stops stepping when `has_unfinished` is false, so an
            end that is not returned yet counts as unfinished.
        """
        request = ask(max_tokens=6)
        engine.add(request)

        while engine.result(request).finish_reason is None:
            assert engine.unfinished
            engine.step()

        assert not engine.unfinished

    @clause()
    def test_e12_values_stay(self, engine: DrivenEngine, ask: Asker) -> None:
        """The engine changes neither a request nor an output that it has returned.

        Troubleshooting: Copy lists that the engine keeps writing to. `EngineRequest`
            and `SamplingParams` belong to the caller.
        """
        request = ask(max_tokens=6, stop_token_ids=[7, 5])
        before = attrs.asdict(request), request.params
        results = engine.run(request, ask(max_tokens=4))

        assert (attrs.asdict(request), request.params) == before
        assert request.params is before[1]
        live = [list(output.token_ids) for output in engine.live_outputs]
        assert live == [list(output.token_ids) for output in engine.outputs]
        assert len(results) == 2

    @clause()
    def test_e13_the_shortest_prompt(self, engine: DrivenEngine, ask: Asker) -> None:
        """A prompt of one id is served.

        Troubleshooting: Add nothing, not even a BOS token: prompts arrive complete.
        """
        request = ask(ask.ids(COUNT)[:1], max_tokens=1)
        logits = ask.scores(request)

        [result] = engine.run(request)

        # The model was not trained on this, so a near tie counts as right.
        assert logits[result.token_ids[0]] > logits.max() - 0.01

    @clause("min_tokens", "min_tokens.ignored_eos", "stop_token_ids")
    def test_e14_min_tokens_of_one_id(self, engine: DrivenEngine, ask: Asker) -> None:
        """Before `min_tokens` new tokens, the only stop id is not sampled.

        Troubleshooting: Under `ignore_eos` the user's id is all of `stop_token_ids`. An
            engine that masks its EOS id alone has to get this one as that.
        """
        end = ask.answer(ask("Add 17 and 25:"))[1]
        for least in (1, 2, 5):
            request = ask(
                "Add 17 and 25:",
                min_tokens=least,
                stop_token_ids=[end],
                ignore_eos=True,
                max_tokens=8,
            )

            [result] = engine.run(request)

            assert end not in result.token_ids[:least]
            assert result.token_ids == ask.answer(request)

    @clause()
    def test_e15_plain_integers(self, engine: DrivenEngine, ask: Asker) -> None:
        """New ids, stop ids and counts are plain integers of Python.

        Troubleshooting: Numbers of numpy and torch compare equal and cannot be written
            as JSON. Call `tolist()` on arrays, and `int()` on single values.
        """
        results = engine.run(ask(), ask(max_tokens=3))

        for result in results:
            for output in result.outputs:
                values = [*output.token_ids, output.num_cached_tokens]
                if output.stop_token_id is not None:
                    values.append(output.stop_token_id)
                assert {type(value) for value in values} == {int}

    @clause()
    def test_e16_the_end_of_a_prompt(self, engine: DrivenEngine, ask: Asker) -> None:
        """Every id of a prompt counts, whichever its last ones are.

        Troubleshooting: An id that pads or ends texts is an id like any other in a
            prompt. Take lengths from the request, not from the ids.
        """
        prompt = ask.ids(COUNT)
        ends = sorted({0, *ask.eos_ids, ask.pad_id})
        requests = [
            ask([*prompt, *[last] * count], max_tokens=3, ignore_eos=True)
            for last in ends
            for count in (1, 3)
        ]

        engine.run(*requests)

        judge = Judge(ask.script, logprob_tolerance=1.0)
        for request in requests:
            outputs = engine.result(request).outputs
            assert judge.judge(request, outputs).fault == ""
