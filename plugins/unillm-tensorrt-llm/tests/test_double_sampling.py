# SPDX-License-Identifier: Apache-2.0

"""The samplers of the fake: what they draw, penalise, ban and log.

Each test is a fact about TensorRT-LLM with the section of
``docs/reference/tensorrt-llm.md`` that names its source.
"""

from __future__ import annotations

import math

import pytest
from asking import (
    ALL_CPP,
    DRAW,
    PROMPT,
    PYTORCH,
    SHORT,
    ask,
    ids,
    params,
    towards,
)
from trtllm_double import calls

# ---------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_takes_the_best_token_up_to_1_0_whatever_is_asked(torch_llm, version):
    """§4.1, PR #6451; from 1.2.0rc0 on it draws (PR #7294). 1.1 is open."""
    llm = torch_llm(version)

    drawn = ids(llm, SHORT, **DRAW)

    is_greedy = version in ("1.0", "1.1rc0", "1.1")
    assert (drawn == ids(llm, SHORT, max_tokens=16)) is is_greedy


def test_the_mixed_sampler_of_1_0_draws_without_temperature(torch_llm):
    """§4.1: it ignores temperature, so a low one does not sharpen."""
    llm = torch_llm("1.0", enable_mixed_sampler=True)

    drawn = ids(llm, SHORT, temperature=0.001, top_p=1.0, max_tokens=16)

    assert drawn != ids(llm, SHORT, max_tokens=16)


@pytest.mark.parametrize("version", ALL_CPP)
def test_the_cpp_decoder_draws_and_repeats_its_seed(cpp_llm, version):
    """§4.4: seeded by the request, with 0 unless it sets a seed."""
    llm = cpp_llm(version)

    seeded = [ids(llm, SHORT, seed=7, **DRAW) for _ in range(2)]
    unset = ids(llm, SHORT, **DRAW)

    assert seeded[0] == seeded[1] != unset
    assert unset == ids(llm, SHORT, seed=0, **DRAW)


@pytest.mark.parametrize("version", ["1.2", "1.3rc20", "1.3rc24", "1.4"])
def test_one_generator_of_the_process_ignores_seeds(torch_llm, version):
    """§4.2: a seed does not repeat; a new process does."""
    llm = torch_llm(version)

    in_one = [ids(llm, SHORT, seed=7, **DRAW) for _ in range(2)]
    anew = ids(torch_llm(version), SHORT, seed=8, **DRAW)

    assert in_one[0] != in_one[1]
    assert in_one[0] == anew


def test_a_seed_repeats_only_in_the_first_row(torch_llm):
    """§4.2, PR #17172: FlashInfer reads the seed of the first row."""
    llm = torch_llm("main")
    alone = [ids(llm, SHORT, seed=7, **DRAW) for _ in range(2)]

    llm.generate_async([41], params(seed=1, **DRAW | {"max_tokens": 900}))
    beside = ids(llm, SHORT, seed=7, **DRAW)

    assert alone[0] == alone[1] != beside


@pytest.mark.parametrize("version", ALL_CPP)
def test_a_top_k_over_1024_is_clipped_with_a_log_message(cpp_llm, version, caplog):
    """§3, ``samplingTopKKernels.h``."""
    llm = cpp_llm(version)

    ids(llm, SHORT, temperature=1.0, top_k=1025, max_tokens=1)

    assert calls.of("clipped") == [{"top_k": 1025}]
    assert "larger than max supported (1024)" in caplog.text


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_the_sampler_of_pytorch_clips_no_top_k(torch_llm, version):
    ids(torch_llm(version), SHORT, temperature=1.0, top_k=1025, max_tokens=1)

    assert calls.of("clipped") == []


# ------------------------------------------------------------------ penalties and bans


def greedy_among(llm):
    """Return a prompt whose best next token stands in it."""
    prompt = list(PROMPT)
    while (best := ids(llm, prompt, max_tokens=1)[0]) not in prompt:
        prompt.append(best)
    return prompt


LARGE = {"presence_penalty": 1e4, "frequency_penalty": 1e4, "repetition_penalty": 1e4}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_ignores_penalties_up_to_1_3rc23(torch_llm, version, name):
    """§4.2, issue #9442, PR #16485. Where they work they count the prompt (§4.3)."""
    llm = torch_llm(version)
    prompt = greedy_among(llm)

    [plain] = ids(llm, prompt, max_tokens=1)
    [other] = ids(llm, prompt, max_tokens=1, **{name: LARGE[name]})

    ignored = version in ("1.0", "1.1rc0", "1.1", "1.2", "1.3rc20")
    assert (other == plain) is ignored


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("version", ALL_CPP)
def test_penalties_of_the_cpp_decoder_count_the_prompt(cpp_llm, version, name):
    """§4.3, ``penaltyKernels.cu``: the first new token is penalised already."""
    llm = cpp_llm(version)
    prompt = greedy_among(llm)

    [other] = ids(llm, prompt, max_tokens=1, **{name: LARGE[name]})

    assert ids(llm, prompt, max_tokens=1)[0] in prompt
    assert other not in prompt


@pytest.mark.parametrize("version", ["1.3rc24", "1.4", "main"])
def test_prompt_ignore_length_leaves_the_prompt_out_of_two_penalties(
    torch_llm, version
):
    """§4.3: presence and frequency; repetition sees all ids."""
    llm = torch_llm(version)
    prompt = greedy_among(llm)
    plain = ids(llm, prompt, max_tokens=1)

    def first(**penalty):
        ignored = len(prompt)
        return ids(llm, prompt, max_tokens=1, prompt_ignore_length=ignored, **penalty)

    assert first(presence_penalty=1e4) == first(frequency_penalty=1e4) == plain
    assert first(repetition_penalty=1e4) != plain


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_ignores_a_bias_in_1_0(torch_llm, version):
    """§4.2."""
    llm = torch_llm(version)

    [biased] = ids(llm, max_tokens=1, embedding_bias=towards(65))

    assert (biased == 65) is (version not in ("1.0", "1.1rc0", "1.1"))


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_ignores_banned_ids_before_it_has_token_ban(torch_llm, version):
    """§4.2, ``token_ban.py``, 2026."""
    llm = torch_llm(version)
    [best] = ids(llm, max_tokens=1)

    [other] = ids(llm, max_tokens=1, bad_token_ids=[best])

    assert (other != best) is (version in ("1.3rc24", "1.4", "main"))


@pytest.mark.parametrize("version", ALL_CPP)
def test_the_cpp_decoder_bans_ids(cpp_llm, version):
    llm = cpp_llm(version)
    [best] = ids(llm, max_tokens=1)

    assert ids(llm, max_tokens=1, bad_token_ids=[best]) != [best]


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_honours_min_p_from_1_4_on(torch_llm, version):
    """§4.2, PR #16590: the largest min_p leaves the best token alone."""
    llm = torch_llm(version)

    drawn = ids(llm, SHORT, min_p=1.0, **DRAW)

    honours = version in ("1.4", "main") or version in ("1.0", "1.1rc0", "1.1")
    assert (drawn == ids(llm, SHORT, max_tokens=16)) is honours  # or it is greedy


# ------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("version", ["1.2", "1.3rc20", "1.4"])
def test_log_probabilities_are_those_before_temperature(torch_llm, version):
    """§4.5: a dict a token, the sampled one first, with ranks."""
    llm = torch_llm(version)

    [cold] = ask(llm, SHORT, logprobs=3, max_tokens=2).outputs
    [hot] = ask(llm, SHORT, logprobs=3, max_tokens=1, temperature=2.0).outputs

    first = cold.logprobs[0]
    assert len(cold.logprobs) == 2
    assert next(iter(first)) == cold.token_ids[0]
    assert first[cold.token_ids[0]].rank == 1
    same = [t for t in first if t in hot.logprobs[0]]
    assert all(math.isclose(first[t].logprob, hot.logprobs[0][t].logprob) for t in same)
    assert same


def test_a_bias_is_in_the_log_probabilities(torch_llm):
    """§4.5: bias, penalties and bans are written into the logits before."""
    llm = torch_llm("1.4")

    [biased] = ask(llm, logprobs=1, max_tokens=1, embedding_bias=towards(65)).outputs

    assert biased.logprobs[0][65].logprob == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("version", "shown"), [("1.2", 0), ("1.4", 1)])
def test_logprobs_of_zero_are_off_in_2025(torch_llm, version, shown):
    """§4.5."""
    [completion] = ask(torch_llm(version), logprobs=0, max_tokens=1).outputs

    assert len(completion.logprobs) == shown


def test_prompt_logprobs_end_with_the_first_new_token(torch_llm):
    """§4.5: and without those of cached blocks, while blocks are reused."""
    llm = torch_llm("1.2")
    prompt = list(range(40, 120))

    [first] = ask(llm, prompt, prompt_logprobs=0, max_tokens=1).outputs
    [again] = ask(llm, prompt, prompt_logprobs=0, max_tokens=1).outputs

    assert [next(iter(each)) for each in first.prompt_logprobs] == [
        *prompt[1:],
        first.token_ids[0],
    ]
    assert len(again.prompt_logprobs) == 80 - 64


def test_an_engine_needs_gathered_logits_for_log_probabilities(cpp_llm):
    """§4.5."""
    with pytest.raises(RuntimeError, match="gather_generation_logits"):
        ask(cpp_llm("0.21"), logprobs=1)

    gathers = cpp_llm("0.21", build={"gather_generation_logits": True})
    [completion] = ask(gathers, logprobs=1, max_tokens=3).outputs
    assert [next(iter(each)) for each in completion.logprobs] == completion.token_ids
