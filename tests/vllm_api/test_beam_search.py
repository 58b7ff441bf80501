# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import types

import pytest
import torch

from unillm import LLM, BeamSearchParams
from unillm.errors import InvalidParameterError, UnsupportedParameterError

PROMPTS = ["Count from 3 to 9:", "Spell the word apple:", "The weather is"]


@pytest.fixture(scope="module")
def llm():
    with LLM("unillm/tiny", backend="transformers", max_model_len=64) as llm:
        yield llm


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    from unillm.model.find import find_model

    return AutoModelForCausalLM.from_pretrained(find_model("unillm/tiny")).eval()


@torch.inference_mode()
def log_probability(model, ids, num_prompt):
    """Return the log-probability of the new ids after the prompt's."""
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    new = torch.tensor(ids[num_prompt:])
    return logprobs[num_prompt - 1 : -1].gather(1, new[:, None]).sum().item()


@torch.inference_mode()
def searched(model, prompt, width, length, eos_ids, penalty):
    """Beam search one sequence at a time, over the whole vocabulary."""

    def score(beam):
        ids, total = beam
        return total / (len(ids) - (ids[-1] in eos_ids)) ** penalty

    def best(beams):
        return sorted(beams, key=score, reverse=True)[:width]

    beams, completed = [(prompt, 0.0)], []
    for _ in range(length):
        continued = []
        for ids, total in beams:
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            top = logprobs.topk(2 * width)
            for value, token_id in zip(*map(torch.Tensor.tolist, top), strict=True):
                beam = ([*ids, token_id], total + value)
                (completed if token_id in eos_ids else continued).append(beam)
        beams = best(continued)
    return best([*completed, *beams])


@pytest.mark.parametrize(("width", "penalty"), [(1, 1.0), (3, 1.0), (5, 0.0)])
def test_the_sequences_are_those_of_a_search_by_hand(llm, model, width, penalty):
    params = BeamSearchParams(width, 10, length_penalty=penalty)
    found = llm.beam_search(PROMPTS, params)

    eos_ids = llm.generator.eos_token_ids
    for prompt, output in zip(PROMPTS, found, strict=True):
        ids = llm.get_tokenizer().encode(prompt)
        expected = searched(model, ids, width, 10, eos_ids, penalty)
        assert [each.tokens for each in output.sequences] == [
            each[0] for each in expected
        ]
        for each in output.sequences:
            logprob = log_probability(model, each.tokens, len(ids))
            assert each.cum_logprob == pytest.approx(logprob, abs=1e-4)
            assert len(each.logprobs) == len(each.tokens) - len(ids)
            assert each.orig_prompt["prompt"] == prompt


def test_the_best_sequence_of_one_beam_is_the_greedy_one(llm):
    [output] = llm.beam_search(PROMPTS[0], BeamSearchParams(1, 20))

    [best] = output.sequences
    assert best.text.endswith("3 4 5 6 7 8 9")
    assert best.tokens[-1] in llm.generator.eos_token_ids


def test_no_beam_ends_at_an_eos_token_that_is_ignored(llm):
    [output] = llm.beam_search(PROMPTS[0], BeamSearchParams(2, 20, ignore_eos=True))

    lengths = {len(each.tokens) for each in output.sequences}
    assert lengths == {len(llm.get_tokenizer().encode(PROMPTS[0])) + 20}


def test_beams_end_where_the_context_is_full(llm):
    [output] = llm.beam_search(PROMPTS[0], BeamSearchParams(2, 500, ignore_eos=True))

    assert {len(each.tokens) for each in output.sequences} == {64}


def test_special_tokens_may_stay_in_the_text(llm):
    params = BeamSearchParams(1, 20, skip_special_tokens=False)
    [output] = llm.beam_search([PROMPTS[0]], params)

    assert output.sequences[0].text.startswith("<|begin_of_text|>")


def test_params_of_another_library_are_taken_by_their_fields(llm):
    params = types.SimpleNamespace(beam_width=2, max_tokens=3, temperature=0.0)

    [output] = llm.beam_search(PROMPTS[0], params)

    assert len(output.sequences) == 2


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"length_penalty": float("nan")}, "length_penalty"),
    ],
)
def test_an_impossible_value_is_refused(values, named):
    with pytest.raises(InvalidParameterError, match=f"{named} must be"):
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 3, **values})


def test_what_cannot_be_searched_is_refused(llm):
    with pytest.raises(UnsupportedParameterError, match="cannot honour structured_out"):
        BeamSearchParams(2, 3, structured_outputs={"regex": "a"})
    with pytest.raises(InvalidParameterError, match="params must be BeamSearchParams"):
        llm.beam_search(PROMPTS[0], None)
    with pytest.raises(InvalidParameterError, match="max_logprobs=20"):
        llm.beam_search(PROMPTS[0], BeamSearchParams(11, 3))
    with pytest.raises(InvalidParameterError, match="1 prompts and 2 lora_request"):
        llm.beam_search(PROMPTS[0], BeamSearchParams(2, 3), [None, None])
    assert llm.beam_search([], BeamSearchParams(2, 3)) == []
    with pytest.raises(ValueError, match="1 of 2 requests failed"):
        llm.beam_search([PROMPTS[0], [5] * 70], BeamSearchParams(2, 3))
