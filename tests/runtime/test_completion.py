# SPDX-License-Identifier: Apache-2.0

"""`Completion.write`: text, log-probabilities and the end from an engine's outputs."""

from __future__ import annotations

import pytest

from unillm import SamplingParams
from unillm.engines.base import EngineOutput, TokenLogprobs
from unillm.runtime.completion import Extent

END = 0
OTHER_STOP = ord("z")


@pytest.fixture
def completion_for(maker_for):
    def completion_for(**params):
        params = SamplingParams(stop_token_ids=[OTHER_STOP], **params)
        return maker_for().make("ab", params).completions[0]

    return completion_for


def output(text="", **fields):
    return EngineOutput(request_id="0-0", token_ids=[*map(ord, text)], **fields)


def test_outputs_add_up_to_text_and_ids(completion_for):
    completion = completion_for()

    completion.write(output("he"))
    seen = completion.extent()
    completion.write(output("y", finish_reason="length"))

    assert (completion.text, completion.token_ids) == ("hey", [104, 101, 121])
    assert (completion.finish_reason, completion.stop_reason) == ("length", None)
    assert completion.delta(seen).text == "y"
    assert completion.delta(Extent()).token_ids == completion.token_ids


@pytest.mark.parametrize(
    ("params", "token", "text", "stop_reason"),
    [
        ({}, chr(END), "h", None),
        ({"ignore_eos": True}, chr(END), "h", END),
        ({}, "z", "h", OTHER_STOP),
        ({"include_stop_str_in_output": True}, "z", "hz", OTHER_STOP),
        ({"include_stop_str_in_output": True, "stop": "hz"}, "z", "hz", "hz"),
    ],
    ids=["eos", "eos as a stop token", "stop token", "kept", "kept completes a string"],
)
def test_a_stop_token_ends_the_completion_and_its_id_is_kept(
    completion_for, params, token, text, stop_reason
):
    completion = completion_for(**params)

    completion.write(
        output("h" + token, finish_reason="stop", stop_token_id=ord(token))
    )

    assert (completion.text, completion.finish_reason) == (text, "stop")
    assert completion.stop_reason == stop_reason
    assert completion.token_ids == [104, ord(token)]


def test_a_stop_string_ends_the_completion_within_an_output(completion_for):
    completion = completion_for(stop="lo")

    completion.write(output("hel"))
    completion.write(output("lo there"))

    assert (completion.text, completion.finish_reason) == ("hel", "stop")
    assert completion.stop_reason == "lo"
    assert completion.token_ids == [*map(ord, "hello")]


@pytest.mark.parametrize("detokenize", [True, False])
def test_each_tokens_own_logprob_is_first(completion_for, detokenize):
    completion = completion_for(logprobs=2, prompt_logprobs=1, detokenize=detokenize)
    told = TokenLogprobs(
        logprob=-2.0, rank=3, top_ids=[97, 98], top_logprobs=[-1, -1.5]
    )

    completion.write(output("hi", logprobs=[told, told], prompt_logprobs=[told]))

    [first, _] = completion.logprobs
    assert list(first) == [104, 97, 98]
    assert [entry.rank for entry in first.values()] == [3, 1, 2]
    assert first[104].decoded_token == ("h" if detokenize else None)
    assert completion.cumulative_logprob == -4.0
    # Nothing predicts the first prompt token; "b" is among its own top tokens.
    assert completion.prompt_logprobs[0] is None
    assert list(completion.prompt_logprobs[1]) == [98, 97]
    assert completion.prompt_logprobs[1][98].logprob == -2.0


def test_tokens_as_probable_as_each_other_have_ranks_of_their_own(completion_for):
    completion = completion_for(logprobs=3)
    at = TokenLogprobs(  # two tokens are second, so either has two above or beside it
        logprob=-2.0, rank=3, top_ids=[98, 97, 99], top_logprobs=[-1.0, -2.0, -2.0]
    )

    completion.write(output("a", logprobs=[at]))

    [entries] = completion.logprobs
    assert [(each, entries[each].rank) for each in entries] == [
        (97, 2),
        (98, 1),
        (99, 3),
    ]
