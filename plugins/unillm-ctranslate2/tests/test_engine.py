# SPDX-License-Identifier: Apache-2.0

"""The same answers as transformers, with and without refills, on real CTranslate2."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from unillm import Generator, SamplingParams
from unillm.backend import EngineRequest, PromptWork, RunScheduler
from unillm.errors import ConfigError, PromptTooLongError
from unillm.preparation import plan_engine
from unillm.testing.randomised import replay
from unillm.testing.timeline import RecordingBatchEngine

HELD_OUT = Path(__file__).parents[3] / "tests" / "data" / "tiny_heldout.jsonl"
COUNT = "Count from 3 to 9:"
GREEDY = SamplingParams(temperature=0, max_tokens=100)


@pytest.fixture(scope="module")
def prompts():
    lines = HELD_OUT.read_text("utf-8").splitlines()[:300]
    return [json.loads(line)["prompt"] for line in lines]


@pytest.fixture(scope="module")
def expected(reference, prompts):
    return [output.token_ids for output in reference.generate(prompts, GREEDY)]


class Ticks:
    """A clock on which every call takes equally long, so that stops pay."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


class Eager(RecordingBatchEngine):
    """Declares that prompts are computed at once, so that the scheduler stops often."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.traits = attrs.evolve(self.traits, prompt_work=PromptWork.PACKED)


def request(generator, number, prompt, max_new_tokens=100, **fields):
    return EngineRequest(
        **{
            "request_id": f"r{number}",
            "prompt_token_ids": tuple(generator.get_tokenizer()(prompt)["input_ids"]),
            "params": GREEDY,
            "stop_token_ids": generator.eos_token_ids,
            "max_new_tokens": max_new_tokens,
            "seed": number,
            "arrival": number,
            **fields,
        }
    )


def finish(scheduler, tokens=None):
    tokens = {} if tokens is None else tokens
    order = []
    while scheduler.has_unfinished():
        for output in scheduler.step():
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                order.append(output.request_id)
        scheduler.check()
    return tokens, order


def test_greedy_tokens_equal_those_of_transformers(generator, prompts, expected):
    found = [output.token_ids for output in generator.generate(prompts, GREEDY)]

    assert found == expected


def test_refills_change_no_token(load, reference, prompts, expected):
    scheduler = RunScheduler(Eager(load(dtype="float32")), clock=Ticks())
    for number, prompt in enumerate(prompts):
        scheduler.add_request(request(reference, number, prompt))

    tokens, _ = finish(scheduler)

    assert [tokens[f"r{n}"] for n in range(300)] == expected
    assert scheduler.counters.refills > 30
    assert scheduler.counters.reprefilled_tokens > 0


def test_int8_equals_its_own_tokens_one_at_a_time(load, reference, prompts, capsys):
    """Except near ties: a batch rounds its sums differently from one row."""
    answers = []
    for rows in (1, 8):
        scheduler = RunScheduler(
            Eager(load(quantization="int8", max_num_seqs=rows)), clock=Ticks()
        )
        for number, prompt in enumerate(prompts):
            scheduler.add_request(request(reference, number, prompt))
        tokens, _ = finish(scheduler)
        answers.append([tokens[f"r{n}"] for n in range(300)])

    alone, together = answers
    equal = sum(a == b for a, b in zip(alone, together, strict=True))
    with capsys.disabled():
        print(f"\nint8: {equal} of 300 equal to one at a time")  # noqa: T201
    assert equal >= 297


def test_three_late_requests_do_not_wait_for_the_first_five(load, reference):
    engine = RecordingBatchEngine(load(dtype="float32"))
    scheduler = RunScheduler(engine, clock=Ticks())
    endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    for number in range(5):
        scheduler.add_request(
            request(
                reference,
                number,
                COUNT,
                400,
                params=endless,
                stop_token_ids=frozenset(),
            )
        )
    for _ in range(3):
        scheduler.step()
    for number in range(5, 8):
        scheduler.add_request(request(reference, number, COUNT))

    _, order = finish(scheduler)

    holds = engine.timeline().holds
    first_ends = min(
        max(h.last_step for h in holds if h.request_id == f"r{n}") for n in range(5)
    )
    assert sorted(order[:3]) == ["r5", "r6", "r7"]
    for number in range(5, 8):
        [hold] = [h for h in holds if h.request_id == f"r{number}"]
        assert hold.last_step < first_ends


def test_an_over_length_prompt_is_refused_before_any_run():
    with Generator(
        "unillm/tiny", backend="ctranslate2", dtype="float32", max_model_len=512
    ) as generator:
        with pytest.raises(PromptTooLongError, match=r"512 tokens.*has 600 tokens"):
            generator.generate([10] * 600)
        assert generator.stats()["engine"]["runs"] == 0


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 5},
        {"stop": "7"},
        {"ignore_eos": True, "max_tokens": 30},
        {"min_tokens": 20, "max_tokens": 40},
        {"bad_words": ["5"], "max_tokens": 30},
        {"bad_words": ["5 6"], "max_tokens": 30},
        {"bad_words": ["4", "April"], "max_tokens": 30},
        {"logprobs": 0, "max_tokens": 5},
    ],
    ids=str,
)
def test_every_rule_ends_as_on_the_embedded_backend(generator, reference, given):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 50, **given})
    asked = [COUNT, "Count from 11 to 19, please:", COUNT]

    ours = generator.generate(asked, params)
    theirs = reference.generate(asked, params)

    for mine, other in zip(ours, theirs, strict=True):
        assert mine.token_ids == other.token_ids
        assert (mine.text, mine.finish_reason) == (other.text, other.finish_reason)


def test_a_word_that_begins_in_the_prompt_may_end_in_the_completion(
    generator, reference
):
    greedy = SamplingParams(temperature=0, max_tokens=8)
    [free] = reference.generate(COUNT, greedy)
    first, second = free.token_ids[:2]
    word = reference.get_tokenizer().decode([first, second])

    for each in (generator, reference):
        [output] = each.generate(
            [*free.prompt_token_ids, first],
            SamplingParams(temperature=0, max_tokens=8, bad_words=[word]),
        )
        assert output.token_ids[0] == second


def test_a_bad_word_of_several_tokens_is_matched_until_the_end():
    """A second run would not know the word's beginning, so the first one goes on."""
    replay(
        "ctranslate2",
        [
            {"prompt": [133], "max_tokens": 11, "ignore_eos": True},
            {
                "prompt": [302, 220, 293, 220, 300, 220, 404, 426, 25],
                "max_tokens": 5,
                "bad_words_token_ids": [[79, 220]],
            },
        ],
        options={"dtype": "float32", "max_num_seqs": 4, "max_model_len": 256},
    )


def test_an_error_inside_a_run_is_raised_by_the_step(load, reference):
    engine = load(dtype="float32")
    scheduler = RunScheduler(engine, clock=Ticks())
    broken = request(reference, 0, COUNT, prompt_token_ids=(10, 511, 3))
    scheduler.add_request(broken)
    engine._texts[511] = None  # noqa: SLF001 - CTranslate2 refuses it

    with pytest.raises(TypeError):
        scheduler.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "fp8"}, "quantization must be one of int8"),
        ({"dtype": "float16"}, "does not compute with dtype='float16' on this cpu"),
        ({"quantization": "int8", "dtype": "float16"}, "computes in float32"),
        ({"backend_options": {"device": "tpu"}}, "device must be one of"),
        ({"backend_options": {"intra_threads": -1}}, "intra_threads must be"),
        ({"backend_options": {"threads": 1}}, "has no option 'threads'"),
        ({"kv_cache_dtype": "fp8"}, "in the type that it computes with"),
        ({"max_model_len": 4096}, "more than the 1024 positions"),
    ],
    ids=str,
)
def test_an_option_that_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Generator("unillm/tiny", backend="ctranslate2", **options)


def test_a_text_ends_with_its_last_whole_character_wherever_the_length_ends_it(
    generator, reference
):
    prompt = "Repeat: 日本 🙂 café:"
    [whole] = reference.generate(prompt, SamplingParams(temperature=0, max_tokens=60))
    cuts = range(1, len(whole.token_ids))
    params = [SamplingParams(temperature=0, max_tokens=count) for count in cuts]

    outputs = generator.generate([prompt] * len(cuts), params)
    deltas = [list(generator.stream(prompt, each)) for each in params]

    decode = generator.get_tokenizer().decode
    shown = [decode(whole.token_ids[:count]) for count in cuts]
    assert sum(text.endswith("\ufffd") for text in shown) >= 8
    assert [output.text for output in outputs] == [t.rstrip("\ufffd") for t in shown]
    assert [output.token_ids for output in outputs] == [
        whole.token_ids[:count] for count in cuts
    ]
    assert ["".join(delta.text for delta in each) for each in deltas] == [
        output.text for output in outputs
    ]


def test_a_plan_has_the_limits_that_an_engine_has(load):
    planned = plan_engine("unillm/tiny", backend="ctranslate2").memory.limits

    engine = load(max_num_seqs=None)

    assert planned.max_num_seqs == engine.limits.max_num_seqs
    assert planned.max_model_len == engine.limits.max_model_len
