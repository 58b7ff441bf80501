# SPDX-License-Identifier: Apache-2.0

"""Every sampling field on real vLLM: the same result as on the embedded backend."""

from __future__ import annotations

import json
import re

import pytest

from unillm import Generator, SamplingParams, StructuredOutputs
from unillm.errors import InvalidParameterError, UnsupportedParameterError

COUNT = "Count from 3 to 9:"
UNSURE = "qwerty zxc %%"  # sampling has something to choose


def params(**fields) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 24, **fields})


def ids_of(generator, text: str) -> list[int]:
    return generator.get_tokenizer().encode(text, add_special_tokens=False)


# ---------------------------------------------------------------- which tokens may come


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {10: 100.0}},
        {"logit_bias": dict.fromkeys(range(20, 60), -100.0), "ignore_eos": True},
        {"allowed_token_ids": [20, 30, 40], "ignore_eos": True},
        {"bad_words": ["5", " 6", "8 9"]},
        {"ignore_eos": True, "min_tokens": 10, "max_tokens": 20},
        {"min_tokens": 20, "stop_token_ids": [17]},
        {"repetition_penalty": 0.5, "frequency_penalty": -1.0, "presence_penalty": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("prompt", [COUNT, UNSURE])
def test_greedy_tokens_equal_those_of_the_embedded_backend(
    generator, reference, prompt, fields
):
    [ours] = generator.generate(prompt, params(**fields))
    [theirs] = reference.generate(prompt, params(**fields))

    assert theirs.token_ids == ours.token_ids
    assert theirs.text == ours.text
    assert theirs.finish_reason == ours.finish_reason
    assert theirs.outputs[0].stop_reason == ours.outputs[0].stop_reason


def test_a_bad_word_never_comes_in_its_usual_tokens(generator):
    allowed = [*ids_of(generator, "7"), *ids_of(generator, "3")]
    free = {"allowed_token_ids": allowed, "ignore_eos": True}

    [before] = generator.generate(COUNT, params(**free))
    [output] = generator.generate(COUNT, params(**free, bad_words=["33"]))

    assert "333" in before.text
    assert "33" not in output.text
    assert len(output.text) == 24


@pytest.mark.parametrize(
    "fields",
    [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}],
    ids=str,
)
def test_a_filter_that_leaves_one_token_is_greedy(generator, fields):
    [greedy] = generator.generate(UNSURE, params())
    [filtered] = generator.generate(UNSURE, params(temperature=2.0, seed=3, **fields))

    assert greedy.token_ids == filtered.token_ids


def test_each_of_several_completions_equals_the_one_with_its_seed(generator):
    sampled = {"temperature": 1.5, "max_tokens": 40}

    [several] = generator.generate(UNSURE, params(**sampled, seed=7, n=3))
    singles = [
        generator.generate(UNSURE, params(**sampled, seed=7 + index))[0]
        for index in range(3)
    ]

    assert [one.token_ids for one in singles] == [
        completion.token_ids for completion in several.outputs
    ]


def test_a_seed_of_minus_two_has_a_neighbour_that_is_seeded_too(generator):
    sampled = params(temperature=1.5, max_tokens=40, seed=-2, n=2)

    [first] = generator.generate(UNSURE, sampled)
    [second] = generator.generate(UNSURE, sampled)

    assert first.outputs[1].token_ids == second.outputs[1].token_ids


def test_without_detokenizing_there_are_ids_and_no_text(generator):
    [plain] = generator.generate(COUNT, params())
    [output] = generator.generate(COUNT, params(detokenize=False, logprobs=1))

    assert output.text == ""
    assert plain.token_ids == output.token_ids
    entries = [each for at in output.outputs[0].logprobs for each in at.values()]
    assert {each.decoded_token for each in entries} == {None}


# -------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("count", [0, 1, 4, -1])
def test_logprobs_have_the_same_entries_and_nearly_the_same_values(
    generator, reference, count
):
    asked = params(max_tokens=4, logprobs=count, prompt_logprobs=count)

    [ours] = generator.generate(COUNT, asked)
    [theirs] = reference.generate(COUNT, asked)

    assert ours.prompt_logprobs[0] is None
    assert len(ours.prompt_token_ids) == len(ours.prompt_logprobs)
    for mine, other in zip(
        [*ours.prompt_logprobs[1:], *ours.outputs[0].logprobs],
        [*theirs.prompt_logprobs[1:], *theirs.outputs[0].logprobs],
        strict=True,
    ):
        assert next(iter(mine)) == next(iter(other))  # the token itself comes first
        assert mine.keys() == other.keys()
        for token_id, entry in mine.items():
            assert entry.logprob == pytest.approx(other[token_id].logprob, abs=2e-3)
            assert entry.decoded_token == other[token_id].decoded_token


def test_the_logprobs_of_named_tokens_are_those_of_the_embedded_backend(
    generator, reference
):
    asked = [
        params(max_tokens=4, logprob_token_ids=[70, 5, 65]),
        params(max_tokens=4, logprobs=2),
    ]

    ours = generator.generate([COUNT, UNSURE], asked)
    theirs = reference.generate([COUNT, UNSURE], asked)

    for mine, other in zip(ours, theirs, strict=True):
        for at, same in zip(
            mine.outputs[0].logprobs, other.outputs[0].logprobs, strict=True
        ):
            assert list(at) == list(same)
            for token_id, entry in at.items():
                assert entry.rank == same[token_id].rank
                assert entry.logprob == pytest.approx(same[token_id].logprob, abs=2e-3)


@pytest.mark.parametrize("mode", ["raw_logits", "processed_logits"])
def test_scores_are_those_of_the_embedded_backend(tiny_options, mode):
    fields = {"max_tokens": 1, "logprobs": -1, "prompt_logprobs": 2}
    asked = [
        params(**fields, logit_bias={65: 3.0}, repetition_penalty=1.4),
        params(**fields, temperature=0.6, top_k=3, seed=1),
        params(**fields, temperature=1.4, min_p=0.2, presence_penalty=0.5, seed=2),
        params(**fields, temperature=0.9, top_p=0.6, seed=3),
    ]
    scores = {}
    for name in ("vllm", "transformers"):
        options = {**tiny_options, "backend": name}
        own = options["backend_options"] if name == "vllm" else {}
        options["backend_options"] = {**own, "logprobs_mode": mode}
        with Generator("unillm/tiny", **options) as generator:
            outputs = generator.generate([UNSURE] * len(asked), asked)
        scores[name] = [
            {token_id: entry.logprob for token_id, entry in at.items()}
            for each in outputs
            for at in (*each.outputs[0].logprobs, *each.prompt_logprobs[1:])
        ]

    for mine, other in zip(scores["vllm"], scores["transformers"], strict=True):
        assert mine == pytest.approx(other, abs=5e-3)


def test_prompt_logprobs_are_of_the_first_completion_alone(generator):
    asked = params(temperature=1, n=2, seed=1, prompt_logprobs=1, max_tokens=3)

    [output] = generator.generate(COUNT, asked)

    assert len(output.prompt_token_ids) == len(output.prompt_logprobs)
    assert len(output.outputs) == 2


def test_prompt_logprobs_of_a_prompt_that_is_cached_are_whole(generator):
    prompt = [20 + n % 70 for n in range(300)]
    generator.generate(prompt, params(max_tokens=1))

    [output] = generator.generate(prompt, params(max_tokens=1, prompt_logprobs=0))

    assert len(output.prompt_logprobs) == 300
    assert all(len(entries) == 1 for entries in output.prompt_logprobs[1:])


def test_prompt_logprobs_in_chunks_are_those_of_the_whole_prompt(
    generator, tiny_options
):
    prompts = [[20 + n % 70 for n in range(150)], COUNT, [30] * 40]
    asked = params(max_tokens=2, prompt_logprobs=2)
    chunked = {"max_num_seqs": 4, "max_num_batched_tokens": 16}

    whole = generator.generate(prompts, asked)
    with Generator("unillm/tiny", **tiny_options, **chunked) as small:
        outputs = small.generate(prompts, asked)

    for output, other in zip(outputs, whole, strict=True):
        assert output.token_ids == other.token_ids
        assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
        pairs = zip(output.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True)
        for mine, its in pairs:
            assert next(iter(mine)) == next(iter(its))  # the token itself comes first
            for token_id in mine.keys() & its.keys():
                expected = pytest.approx(its[token_id].logprob, abs=2e-3)
                assert mine[token_id].logprob == expected
            best, same = (max(e.logprob for e in d.values()) for d in (mine, its))
            assert best == pytest.approx(same, abs=2e-3)


# ----------------------------------------------------------------------- structure

SCHEMA = {
    "type": "object",
    "properties": {
        "right": {"type": "boolean"},
        "grade": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["right", "grade"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "wanted",
    [
        {"json": SCHEMA, "disable_any_whitespace": True},
        {"json": SCHEMA, "whitespace_pattern": " ?"},
        {"regex": "[0-9]{2}:[0-9]{2}"},
        {"regex": "(yes|no)!?"},
        {"choice": ["yes", "no", "it depends"]},
        {"grammar": 'start: "a" | "(" start ")"\n'},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
@pytest.mark.parametrize("prompt", [COUNT, UNSURE])
def test_a_structure_gives_the_same_tokens_on_both_backends(
    generator, reference, prompt, wanted
):
    """Except the EOS token: in vLLM only the tokenizer's own one ends a structure."""
    asked = params(structured_outputs=StructuredOutputs(**wanted), max_tokens=60)

    [ours] = generator.generate(prompt, asked)
    [theirs] = reference.generate(prompt, asked)

    assert (ours.text, ours.token_ids[:-1]) == (theirs.text, theirs.token_ids[:-1])
    assert ours.finish_reason == theirs.finish_reason
    if ours.finish_reason == "stop":
        assert ours.token_ids[-1] == generator.eos.primary
        assert theirs.token_ids[-1] in reference.eos_token_ids


def test_json_without_whitespace_has_no_spaces(generator):
    wanted = {"json": SCHEMA, "disable_any_whitespace": True}

    [output] = generator.generate(
        UNSURE, params(structured_outputs=wanted, temperature=1, max_tokens=60)
    )

    assert re.fullmatch(r'\{"right":(true|false),"grade":[0-9]\}', output.text)
    assert output.finish_reason == "stop"


def test_json_has_no_more_whitespace_than_its_pattern_allows(generator, reference):
    wanted = {"json": SCHEMA, "whitespace_pattern": " ?"}
    eager = params(
        structured_outputs=wanted, max_tokens=60, logit_bias=spaces(generator)
    )

    [output] = generator.generate(UNSURE, eager)
    [embedded] = reference.generate(UNSURE, eager)

    assert re.fullmatch(r'\{"right" : (true|false) , "grade" : [0-9]\}', output.text)
    assert embedded.text == output.text


def spaces(generator) -> dict[int, float]:
    return dict.fromkeys(ids_of(generator, " "), 50.0)


def test_json_object_gives_a_json_object(generator):
    wanted = {"json_object": True, "disable_any_whitespace": True}
    asked = [
        params(structured_outputs=wanted, temperature=1, seed=seed, max_tokens=400)
        for seed in range(4)
    ]

    outputs = generator.generate([UNSURE] * 4, asked)

    ended = [output for output in outputs if output.finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(output.text), dict) for output in ended)


def test_an_impossible_structure_fails_alone_with_the_error_of_the_core(generator):
    bad = params(structured_outputs={"regex": "("})
    good = params(structured_outputs={"choice": ["yes"]})

    wrong, right = generator.generate([COUNT, COUNT], [bad, good], on_error="return")

    assert isinstance(wrong, InvalidParameterError)
    assert "this regex cannot be used" in str(wrong)
    assert right.text == "yes"


def test_structures_and_free_text_run_side_by_side(generator):
    asked = [
        params(),
        params(structured_outputs={"choice": ["left", "right"]}),
        params(structured_outputs={"regex": "[a-f]{5}"}),
        params(temperature=1, seed=1, structured_outputs={"regex": "[0-9]{4}"}),
    ]

    free, choice, letters, digits = generator.generate([COUNT] * 4, asked)

    assert free.text == "3 4 5 6 7 8 9"
    assert choice.text in ("left", "right")
    assert re.fullmatch("[a-f]{5}", letters.text)
    assert re.fullmatch("[0-9]{4}", digits.text)


# ---------------------------------------------------------------------------- order


def test_a_lower_priority_number_goes_first(generator):
    """More requests than the engine runs at a time, so that some wait."""
    busy = [
        generator.submit(COUNT, params(ignore_eos=True, max_tokens=60))
        for _ in range(generator.limits.max_num_seqs)
    ]
    late = generator.submit(COUNT, params(), priority=9)
    soon = generator.submit(COUNT, params(), priority=-1)

    late.result(60)
    soon.result(60)
    for handle in busy:
        handle.result(60)

    first = [h.result().metrics.first_token_ts for h in (soon, late)]
    assert first[0] < first[1]


# ------------------------------------------------------------------------- refusals


def test_a_tokenizer_object_refuses_structures_with_the_reason(tiny_options):
    class Bytes:
        eos_token_id = 506
        vocab_size = 512

        def encode(self, text):
            return [10 + byte % 90 for byte in text.encode()]

        def decode(self, ids):
            return " ".join(map(str, ids))

    with Generator("unillm/tiny", tokenizer=Bytes(), **tiny_options) as generator:
        with pytest.raises(UnsupportedParameterError, match="tokenizer= as a path"):
            generator.generate("a", params(structured_outputs={"choice": ["a"]}))
        [output] = generator.generate("abc", params(max_tokens=2))

    assert len(output.token_ids) == 2
