# SPDX-License-Identifier: Apache-2.0

"""T: the text that a caller of `Generator` reads."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ...generator import Generator
from ...outputs import RequestOutput
from ...params import SamplingParams
from ..asking import ANSWERS, COUNT, UNSURE, Asker
from .clauses import clause
from .fixtures import Clauses

GREEDY = SamplingParams(temperature=0, max_tokens=64)
REPEAT = "Repeat: blue cat über 🙂:"


class TextClauses(Clauses):
    """The core makes the text, so failures here alone are rare."""

    @clause()
    def test_t1_answers(self, generator: Generator, ask: Asker) -> None:
        """Prompts become the model's answers, in order, each ended by an EOS token.

        Troubleshooting: A space or an EOS token in the text means that an id is missing
            or extra: see E2 and E3.
        """
        outputs = generator.generate(list(ANSWERS), GREEDY, use_tqdm=False)

        assert [output.text for output in outputs] == list(ANSWERS.values())
        assert [output.prompt for output in outputs] == list(ANSWERS)
        ends = {("stop", ask.answer(ask(prompt))[-1]) for prompt in ANSWERS}
        assert {_end(output) for output in outputs} == ends

    @clause()
    def test_t2_stop_strings(self, generator: Generator, ask: Asker) -> None:
        """A stop string ends a completion and is its `stop_reason`, not in its text.

        Troubleshooting: The core finds it and aborts the request: see A1 and A2.
        """
        own_end = ask.answer(ask())[-1]
        for stop, text, reason in (
            ("7", "3 4 5 6 ", "7"),
            (["9", "5 6"], "3 4 ", "5 6"),
            ("nowhere", ANSWERS[COUNT], own_end),
        ):
            params = _greedy(stop=stop)

            [output] = generator.generate(COUNT, params)

            assert (output.text, _end(output)) == (text, ("stop", reason))

    @clause()
    def test_t3_kept_stop_strings(self, generator: Generator) -> None:
        """With `include_stop_str_in_output` the text ends with the stop string.

        Troubleshooting: see T2.
        """
        params = _greedy(stop="5 6", include_stop_str_in_output=True)

        [output] = generator.generate(COUNT, params)

        assert (output.text, _end(output)) == ("3 4 5 6", ("stop", "5 6"))

    @clause("stop_token_ids")
    def test_t4_stop_ids(self, generator: Generator, ask: Asker) -> None:
        """A stop id that the user gave is the `stop_reason`, and its text is left out.

        Troubleshooting: see E7: the id stays in `token_ids`.
        """
        whole = ask.answer(ask())
        params = _greedy(stop_token_ids=[whole[4]])

        [output] = generator.generate(COUNT, params)

        expected = whole[: whole.index(whole[4]) + 1]
        assert output.token_ids == expected
        assert _end(output) == ("stop", whole[4])
        assert output.text == generator.get_tokenizer().decode(expected[:-1])

    @clause("ignore_eos")
    def test_t5_ignored_ends(self, generator: Generator) -> None:
        """Under `ignore_eos` a completion goes on after the model's EOS tokens.

        Troubleshooting: see E8.
        """
        params = _greedy(max_tokens=30, ignore_eos=True)

        [output] = generator.generate(COUNT, params)

        assert (len(output.token_ids), _end(output)) == (30, ("length", None))
        assert output.text.startswith(ANSWERS[COUNT])
        assert "<|" not in output.text

    @clause()
    def test_t6_length(self, generator: Generator) -> None:
        """After `max_tokens` new tokens the finish reason is "length".

        Troubleshooting: see E4.
        """
        params = _greedy(max_tokens=5)

        [output] = generator.generate(COUNT, params)

        assert (output.text, _end(output)) == ("3 4 5", ("length", None))

    @clause("min_tokens.stop_ids")
    def test_t7_min_tokens(self, generator: Generator) -> None:
        """Before `min_tokens` new tokens no stop string ends a completion.

        Troubleshooting: see E9.
        """
        params = _greedy(stop=["5", "8"], min_tokens=6)

        [output] = generator.generate(COUNT, params)

        assert (output.text, _end(output)) == ("3 4 5 6 7 ", ("stop", "8"))

    @clause()
    def test_t8_streams(self, generator: Generator) -> None:
        """The deltas of a stream add up to the completion, and the last one ends it.

        Troubleshooting: An output may carry several tokens, each of them once: see E2.
        """
        [whole] = generator.generate(COUNT, GREEDY)

        deltas = list(generator.stream(COUNT, GREEDY))

        assert "".join(delta.text for delta in deltas) == whole.text
        ids = [token_id for delta in deltas for token_id in delta.token_ids]
        assert ids == whole.token_ids
        reasons = [delta.finish_reason for delta in deltas]
        assert reasons == [None] * (len(deltas) - 1) + ["stop"]

    @clause()
    def test_t9_characters(self, generator: Generator) -> None:
        """No delta of a stream splits a character of several tokens.

        Troubleshooting: Ids arrive out of order, or some are missing: see E2.
        """
        deltas = list(generator.stream(REPEAT, GREEDY))

        assert "".join(delta.text for delta in deltas) == "blue cat über 🙂"
        assert not any("\ufffd" in delta.text for delta in deltas)

    @clause("logprobs", "logprobs.top")
    def test_t10_logprobs(self, generator: Generator, ask: Asker) -> None:
        """Log-probabilities have ranks and texts, and add up to `cumulative_logprob`.

        Troubleshooting: see P1 to P4.
        """
        params = _greedy(max_tokens=5, logprobs=2)

        [output] = generator.generate(COUNT, params)

        completion = output.outputs[0]
        assert completion.logprobs is not None
        own = [
            entries[token_id]
            for token_id, entries in zip(
                completion.token_ids, completion.logprobs, strict=True
            )
        ]
        context = list(ask.ids(COUNT))
        total = 0.0
        for token_id in completion.token_ids:
            total += ask.model.logprobs(context)[token_id]
            context.append(token_id)
        assert [entry.rank for entry in own] == [1] * 5
        assert "".join(entry.decoded_token or "" for entry in own) == output.text
        assert completion.cumulative_logprob == pytest.approx(
            total, abs=5 * self.logprob_tolerance
        )
        assert {len(entries) for entries in completion.logprobs} == {2}

    @clause("n", "seed", "temperature")
    def test_t11_n(self, generator: Generator) -> None:
        """`n` completions are drawn apart; number i has the seed of the request plus i.

        Troubleshooting: The core submits n requests: see S2 to S4.
        """
        fields: dict[str, Any] = {
            "temperature": 2.0,
            "max_tokens": 20,
            "ignore_eos": True,
        }
        [several] = generator.generate(UNSURE, SamplingParams(n=3, seed=5, **fields))
        alone = generator.generate(
            [UNSURE] * 3,
            [SamplingParams(seed=seed, **fields) for seed in (5, 6, 7)],
        )

        assert [c.index for c in several.outputs] == [0, 1, 2]
        ids = [completion.token_ids for completion in several.outputs]
        assert ids == [output.token_ids for output in alone]
        # Two of them may be equal by chance: the model repeats some tokens.
        assert len({tuple(each) for each in ids}) > 1

    @clause()
    def test_t12_chat(self, generator: Generator, ask: Asker) -> None:
        """`chat` applies the chat template, and a turn's EOS token ends the answer.

        Troubleshooting: Chat models end a turn with another id than a text; the stop
            ids include both.
        """
        message = {"role": "user", "content": "Add 17 and 25:"}

        [output] = generator.chat([message], GREEDY)

        # As in vLLM, the tokenizer's own EOS token is not a `stop_reason`.
        assert (output.text, _end(output)) == ("42", ("stop", None))
        assert output.token_ids[-1] == ask.primary_eos_id

    @clause()
    def test_t13_defaults(self, generator: Generator) -> None:
        """A call without params uses the model's generation config.

        Troubleshooting: Params arrive complete; the engine adds no defaults.
        """
        [output] = generator.generate(COUNT)

        assert (output.text, output.finish_reason) == (ANSWERS[COUNT], "stop")

    @clause(
        *("structured_outputs", "structured_outputs.choice", "structured_outputs.regex")
    )
    def test_t14_structured_outputs(self, generator: Generator) -> None:
        """Structured outputs have the requested form and end by themselves.

        Troubleshooting: An engine that declares the field as emulated applies
            `EngineRequest.grammar` before all other rules; a native one has its own
            grammar.
        """
        forms: list[dict[str, Any]] = [
            {"choice": ["forty", "41", "42"]},
            {"regex": "[4-6]{3}"},
        ]
        params = [_greedy(max_tokens=40, structured_outputs=form) for form in forms]

        one, other = generator.generate(
            ["Add 17 and 25:", COUNT], params, use_tqdm=False
        )

        assert (one.text, one.finish_reason) == ("42", "stop")
        assert re.fullmatch("[4-6]{3}", other.text)
        assert other.finish_reason == "stop"

    @clause("bad_words")
    def test_t15_bad_words(self, generator: Generator) -> None:
        """The usual tokens of a bad word never appear.

        Troubleshooting: see S14.
        """
        params = _greedy(bad_words=["6"])

        [output] = generator.generate(COUNT, params)

        assert output.text.startswith("3 4 5 ")
        assert "6" not in output.text


def _greedy(**fields: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 64, **fields})


def _end(output: RequestOutput) -> tuple[str | None, int | str | None]:
    return output.finish_reason, output.outputs[0].stop_reason
