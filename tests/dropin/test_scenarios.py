# SPDX-License-Identifier: Apache-2.0

"""Scenarios of vLLM's own tests of its offline API, with the import changed.

The headings name the files under ``tests/`` of vLLM's repository (v0.32). Where vLLM
raises an error of its own, a test expects a `ValueError` or `TypeError`, as programs for
older vLLM do; every error of unillm is one of the two.
"""

from __future__ import annotations

import math

import pytest

from unillm import LLM, SamplingParams

PROMPT = "Count from 3 to 9:"
PROMPTS = [PROMPT, "Add 17 and 25:", "Spell the word apple:", "Repeat: blue green"]
UNSURE = "qwerty zxc %%"
"""A prompt that the model was not trained on, so sampling has a choice."""
GREEDY = SamplingParams(temperature=0, max_tokens=40)


def the(outputs):
    """Return the only completion of the only prompt."""
    [output] = outputs
    [completion] = output.outputs
    return completion


# ------------------------------------------------------- entrypoints/llm/test_generate.py


def test_params_for_each_prompt_and_for_all(llm: LLM):
    several = [
        SamplingParams(temperature=t, top_p=0.95) for t in (0.01, 0.3, 0.7, 0.99)
    ]

    assert len(llm.generate(PROMPTS, sampling_params=several)) == 4
    with pytest.raises(ValueError, match="4 prompts and 3 params"):
        llm.generate(PROMPTS, sampling_params=several[:3])
    assert len(llm.generate(PROMPTS, sampling_params=several[1])) == 4
    assert len(llm.generate(PROMPTS, sampling_params=None)) == 4


def test_priorities(llm: LLM):
    for priority in (None, [0] * 4, 1):
        assert len(llm.generate(PROMPTS, priority=priority)) == 4
    for priority in ([0] * 3, []):
        with pytest.raises(ValueError, match="4 prompts and"):
            llm.generate(PROMPTS, priority=priority)
    for priority in ([0], 1):
        assert len(llm.generate(PROMPT, priority=priority)) == 1


def test_prompt_and_answer_never_exceed_the_context(llm: LLM):
    long = "Add 1 and 1:\n2\n" * 18
    params = SamplingParams(max_tokens=300, ignore_eos=True)

    for output in llm.generate([PROMPT, long], params):
        completion = output.outputs[0]
        assert len(output.prompt_token_ids) + len(completion.token_ids) == 256
        assert completion.finish_reason == "length"


def test_outputs_have_metrics_when_statistics_are_on(llm: LLM):
    outputs = llm.generate(PROMPTS)

    assert all(output.metrics is not None for output in outputs)
    for output in outputs:
        generated = sum(len(each.token_ids) for each in output.outputs)
        assert generated == output.metrics.num_generation_tokens
        assert output.metrics.first_token_ts <= output.metrics.last_token_ts


# ----------------------------------------------------------- entrypoints/llm/test_chat.py


def test_one_chat_and_several(llm: LLM):
    one = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": "Add 17 and 25:"},
    ]
    other = [{"role": "user", "content": PROMPT}]

    assert the(llm.chat(one)).text == "42"
    assert [output.outputs[0].text for output in llm.chat([one, other])] == [
        "42",
        "3 4 5 6 7 8 9",
    ]


def test_parts_of_content_become_one_text(llm: LLM):
    parts = [{"type": "text", "text": "Add 17"}, {"type": "text", "text": "and 25:"}]

    [output] = llm.chat([{"role": "user", "content": parts}])

    assert "Add 17\nand 25:" in output.prompt


def test_a_chat_has_one_bos_token(llm: LLM):
    bos = llm.get_tokenizer().bos_token_id

    [output] = llm.chat([{"role": "user", "content": PROMPT}])

    assert output.prompt_token_ids.count(bos) == 1


def test_a_template_reads_chat_template_kwargs(llm: LLM):
    template = "{{ bos_token }}{% if thinking %}think{% else %}no{% endif %}"
    messages = [{"role": "user", "content": PROMPT}]

    prompts = [
        llm.chat(
            messages,
            chat_template=template,
            chat_template_kwargs={"thinking": thinking},
        )[0].prompt
        for thinking in (True, False)
    ]

    bos = llm.get_tokenizer().bos_token
    assert prompts == [f"{bos}think", f"{bos}no"]


def test_a_refused_conversation_leaves_no_request_behind(llm: LLM):
    good = [{"role": "user", "content": PROMPT}]
    too_long = [{"role": "user", "content": "Add 1 and 1: " * 200}]

    with pytest.raises(ValueError, match="The prompt has"):
        llm.chat([good, good, too_long], GREEDY)
    outputs = llm.chat([good, good], GREEDY)

    assert [output.outputs[0].text for output in outputs] == ["3 4 5 6 7 8 9"] * 2


# ---------------------------------------------- entrypoints/llm/test_prompt_validation.py


@pytest.mark.parametrize("prompt", ["", [[]], {"prompt_token_ids": []}], ids=str)
def test_an_empty_prompt_is_refused(llm: LLM, prompt):
    with pytest.raises(ValueError, match="The prompt is empty"):
        llm.generate(prompt)


@pytest.mark.parametrize("token_id", [999_999_999, -1])
def test_an_id_out_of_vocabulary_is_refused(llm: LLM, token_id):
    with pytest.raises(ValueError, match="out of vocabulary"):
        llm.generate({"prompt_token_ids": [token_id]})


# ---------------------------------------------------- v1/sample/test_sampling_params_e2e.py


def test_several_completions(llm: LLM):
    [output] = llm.generate(PROMPT, SamplingParams(n=3))

    assert [completion.index for completion in output.outputs] == [0, 1, 2]


def test_penalties(llm: LLM):
    params = SamplingParams(
        temperature=1.2,
        presence_penalty=1.2,
        frequency_penalty=1.2,
        repetition_penalty=1.2,
        min_p=0.5,
        top_p=0.5,
        top_k=3,
    )

    assert the(llm.generate(PROMPT, params)).token_ids


def test_a_stop_string_is_kept_in_the_text_only_if_asked(llm: LLM):
    words = the(llm.generate(PROMPT, GREEDY)).text.split()
    stop = words[5]

    without = SamplingParams(temperature=0, max_tokens=40, stop=stop)
    with_it = SamplingParams(
        temperature=0, max_tokens=40, stop=stop, include_stop_str_in_output=True
    )

    assert words[:5] == the(llm.generate(PROMPT, without)).text.split()
    assert words[:6] == the(llm.generate(PROMPT, with_it)).text.split()


def test_the_first_stop_token_generated_ends_the_completion(llm: LLM):
    ids = the(llm.generate(PROMPT, GREEDY)).token_ids
    first, second = ids[4], ids[6]

    for stop_token_ids in ([first, second], [second, first]):
        params = SamplingParams(temperature=0, stop_token_ids=stop_token_ids)
        completion = the(llm.generate(PROMPT, params))
        assert first == completion.token_ids[-1]
        assert first == completion.stop_reason


def test_detokenize_false_leaves_ids_and_logprobs(llm: LLM):
    params = SamplingParams(detokenize=False, logprobs=3, prompt_logprobs=3)

    [output] = llm.generate(PROMPT, params)

    completion = output.outputs[0]
    assert completion.text == ""
    assert completion.token_ids
    for entries in [*output.prompt_logprobs[1:], *completion.logprobs]:
        assert 3 <= len(entries) <= 4
        assert all(entry.decoded_token is None for entry in entries.values())


def test_bad_words_are_not_generated(llm: LLM):
    words = the(llm.generate(PROMPT, GREEDY)).text.split()
    first = " ".join(words[:2])

    text = the(
        llm.generate(
            PROMPT, SamplingParams(temperature=0, max_tokens=30, bad_words=[first])
        )
    ).text

    assert first not in text


def test_only_allowed_token_ids_are_generated(llm: LLM):
    params = SamplingParams(allowed_token_ids=[20])

    assert set(the(llm.generate(PROMPT, params)).token_ids) == {20}
    for wrong in ([], [-1], [10_000_000]):
        with pytest.raises(ValueError, match="allowed_token_ids"):
            llm.generate(PROMPT, SamplingParams(allowed_token_ids=wrong))


@pytest.mark.parametrize(
    "removed", [{"best_of": 3}, {"logits_processors": [max]}], ids=str
)
def test_a_field_that_vllm_removed_is_refused(removed):
    with pytest.raises(TypeError, match="no argument"):
        SamplingParams(**removed)


def test_a_seed_determines_the_text(llm: LLM):
    def text(seed):
        params = SamplingParams(seed=seed, temperature=2.0, max_tokens=30)
        return the(llm.generate(UNSURE, params)).text

    assert text(42) == text(42)
    assert text(42) != text(43)


# ------------------- v1/engine/test_parallel_sampling.py, v1/engine/test_llm_engine.py


def test_completions_of_one_prompt_have_seeds_of_their_own(llm: LLM):
    options = {"temperature": 2.0, "max_tokens": 30}
    [output] = llm.generate(UNSURE, SamplingParams(n=4, seed=7, **options))
    alone = the(llm.generate(UNSURE, SamplingParams(seed=8, **options)))

    texts = [tuple(completion.token_ids) for completion in output.outputs]
    assert len(set(texts)) == 4
    assert tuple(alone.token_ids) == texts[1]


# ------------------------------------------ v1/sample/test_logprobs.py, test_logprobs_e2e.py


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs_have_the_chosen_token_first_then_the_best(llm: LLM, count):
    params = SamplingParams(temperature=1.5, seed=1, max_tokens=8, logprobs=count)

    completion = the(llm.generate(UNSURE, params))

    total = 0.0
    for token_id, entries in zip(
        completion.token_ids, completion.logprobs, strict=True
    ):
        assert token_id == next(iter(entries))
        assert len(entries) in (max(count, 1), count + 1)
        best = sorted(entries.values(), key=lambda entry: entry.rank)
        assert list(range(1, count + 1)) == [entry.rank for entry in best[:count]]
        assert best == sorted(best, key=lambda entry: -entry.logprob)
        total += entries[token_id].logprob
    assert math.isclose(total, completion.cumulative_logprob, abs_tol=1e-4)


def test_no_logprobs_unless_asked(llm: LLM):
    [output] = llm.generate(PROMPT, GREEDY)

    assert output.prompt_logprobs is None
    assert output.outputs[0].logprobs is None
    assert output.outputs[0].cumulative_logprob is None


def test_prompt_logprobs_begin_with_none(llm: LLM):
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=2)

    [output] = llm.generate(PROMPT, params)

    first, *others = output.prompt_logprobs
    assert first is None
    for token_id, entries in zip(output.prompt_token_ids[1:], others, strict=True):
        assert token_id in entries
        assert 2 <= len(entries) <= 3


def test_more_logprobs_than_allowed_are_refused(llm: LLM):
    with pytest.raises(ValueError, match="max_logprobs"):
        llm.generate(PROMPT, SamplingParams(logprobs=21))


# ------------------------------------------------------------------ samplers/ and detokenizer/


def test_ignore_eos_continues_after_the_eos_token(llm: LLM):
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)

    completion = the(llm.generate(PROMPT, params))

    assert len(completion.token_ids) == 30
    assert completion.finish_reason == "length"


def test_stop_reasons(llm: LLM):
    def ended(**options):
        completion = the(llm.generate(PROMPT, SamplingParams(temperature=0, **options)))
        return completion.finish_reason, completion.stop_reason

    [_, _, second, *_] = the(llm.generate(PROMPT, GREEDY)).token_ids

    assert ended(max_tokens=3) == ("length", None)
    assert ended(stop=["5"]) == ("stop", "5")
    assert ("stop", second) == ended(stop_token_ids=[second])
    finish_reason, stop_reason = ended(max_tokens=40)
    assert finish_reason == "stop"
    assert stop_reason is None or stop_reason in llm.generator.eos_token_ids


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["5 6"], "3 4 "),
        ([" 5", "9"], "3 4"),
        (["9", "4"], "3 "),
        (["nothing"], "3 4 5 6 7 8 9"),
    ],
    ids=str,
)
def test_a_stop_string_may_span_several_tokens(llm: LLM, stop, text):
    params = SamplingParams(temperature=0, max_tokens=40, stop=stop)

    assert text == the(llm.generate(PROMPT, params)).text


def test_no_completion_ends_before_min_tokens(llm: LLM):
    usual = len(the(llm.generate(PROMPT, GREEDY)).token_ids)
    params = SamplingParams(
        temperature=0, min_tokens=usual + 5, max_tokens=60, stop=["4"]
    )

    assert usual + 5 <= len(the(llm.generate(PROMPT, params)).token_ids)


def test_special_tokens_are_in_the_text_if_asked(llm: LLM):
    params = SamplingParams(
        temperature=0, max_tokens=30, ignore_eos=True, skip_special_tokens=False
    )

    assert "<|" in the(llm.generate(PROMPT, params)).text
    params.skip_special_tokens = True
    assert "<|" not in the(llm.generate(PROMPT, params)).text


# -------------------------------------------------- basic_correctness/test_basic_correctness.py


def test_greedy_ids_are_those_of_transformers(llm: LLM):
    import torch
    from transformers import AutoModelForCausalLM

    from unillm.model.find import find_model

    model = AutoModelForCausalLM.from_pretrained(
        find_model("unillm/tiny"), dtype=torch.float32
    )
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)

    for output in llm.generate(PROMPTS, params):
        prompt = torch.tensor([output.prompt_token_ids])
        made = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            temperature=None,
            max_new_tokens=24,
            min_new_tokens=None,
            eos_token_id=None,
            pad_token_id=0,
        )
        expected = made[0, prompt.shape[1] :].tolist()
        assert output.outputs[0].token_ids == expected


# --------------------------------------------------------------- the forms of prompts


def test_every_form_of_prompt_is_one_request(llm: LLM):
    ids = llm.get_tokenizer()(PROMPT)["input_ids"]
    forms = [PROMPT, ids, {"prompt": PROMPT}, {"prompt_token_ids": ids}]

    alone = [the(llm.generate(form, GREEDY)).text for form in forms]
    together = [output.outputs[0].text for output in llm.generate(forms, GREEDY)]

    assert ["3 4 5 6 7 8 9"] * 4 == alone == together
    assert llm.generate([], GREEDY) == []


def test_the_text_beside_token_ids_is_only_echoed(llm: LLM):
    ids = llm.get_tokenizer()(PROMPT)["input_ids"]

    [output] = llm.generate({"prompt": "something", "prompt_token_ids": ids}, GREEDY)

    assert (output.prompt, output.outputs[0].text) == ("something", "3 4 5 6 7 8 9")


@pytest.mark.parametrize("prompts", [None, 5, b"text", iter(["a"]), {"text": "x"}])
def test_a_value_of_another_form_is_a_prompt_type_error(llm: LLM, prompts):
    with pytest.raises(TypeError, match="prompt"):
        llm.generate(prompts)


@pytest.mark.parametrize("messages", ["hello", None, 5])
def test_a_value_of_another_form_is_a_conversation_type_error(llm: LLM, messages):
    with pytest.raises(TypeError, match="conversation"):
        llm.chat(messages)
