# SPDX-License-Identifier: Apache-2.0

"""Each sampling field in each version: as on the embedded backend, or refused.

TensorRT-LLM ignores in silence what a version does not have, and so does the fake.
"""

from __future__ import annotations

import pytest

from unillm import SamplingParams, StructuredOutputs
from unillm.errors import UnsupportedParameterError

PROMPT = "Count from 3 to 9:"
UNSURE = [[40, 41, 42]]
"""A prompt after which the model is not sure of the next token."""
OTHERS = ["Add 17 and 25:", "Spell the word apple:"]

GREEDY = {
    "stop_token_ids": {"stop_token_ids": [60, 70]},
    "ignore_eos": {"ignore_eos": True},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": 1.5},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "min_p": {"min_p": 0.1, "temperature": 1.0, "top_k": 1},
    "logit_bias": {"logit_bias": {60: 5.0, 70: -5.0}},
    "allowed_token_ids": {"allowed_token_ids": [50, 60, 70, 80]},
    "bad_words": {"bad_words": ["4"]},
    "min_tokens": {"min_tokens": 12, "ignore_eos": True, "stop_token_ids": [60]},
    "logprobs": {"logprobs": 3},
    "prompt_logprobs": {"prompt_logprobs": 2},
    "structured_outputs": {"structured_outputs": StructuredOutputs(regex="[a-f]{4}")},
}
"""Fields, and a greedy request that each changes."""

IN_TORCH = {
    "1.0": {"enable_trtllm_sampler": False},
    "1.1rc0": {"use_torch_sampler": True},
    "1.1": {"sampler_type": "auto"},
    "1.2": {"sampler_type": "auto"},
    "1.3rc20": {"sampler_type": "auto"},
    "1.3rc24": {"sampler_type": "auto"},
}
GUIDED = {"guided_decoding_backend": "llguidance"}

CPP = {"presence_penalty", "frequency_penalty", "logprobs", "prompt_logprobs"}
RUNNER = CPP | {"min_p", "logit_bias", "allowed_token_ids", "min_tokens"}
ARGMAX = CPP | {
    *("temperature", "seed", "min_p", "repetition_penalty", "logit_bias"),
    *("allowed_token_ids", "bad_words", "min_tokens"),
}
LACK_MIN_P = ("0.12", "0.13", "0.14", "0.15", "0.16", "0.17", "0.18")

CASES = [
    ("0.11", {}, RUNNER),
    *((version, {}, CPP | {"min_p"}) for version in LACK_MIN_P),
    ("0.21", {}, CPP),
    # It draws with seed 0 for all requests (§4.4).
    ("0.13", {"door": "runner"}, RUNNER | {"seed", "temperature"}),
    ("0.21", {"door": "runner"}, RUNNER),
    *((version, {}, CPP) for version in IN_TORCH),
    ("1.0", {"door": "engine"}, CPP),
    ("1.3rc20", {"door": "engine"}, CPP),
    *((version, IN_TORCH[version], ARGMAX) for version in ("1.0", "1.1rc0", "1.1")),
    (
        "1.2",
        IN_TORCH["1.2"],
        CPP | {"seed", "min_p", "repetition_penalty", "bad_words", "min_tokens"},
    ),
    (
        "1.3rc20",
        IN_TORCH["1.3rc20"],
        {"presence_penalty", "frequency_penalty", "repetition_penalty"}
        | {"seed", "min_p", "bad_words", "min_tokens"},
    ),
    ("1.3rc24", IN_TORCH["1.3rc24"], {"seed", "min_p"}),
    ("1.4", {}, {"seed"}),
    ("main", {}, {"seed"}),
]
"""Versions, options, and the fields that are refused: §4 of the page of facts."""


def named(case):
    return str(case) if isinstance(case, str) else ""


@pytest.mark.parametrize(("version", "options", "refused"), CASES, ids=named)
def test_each_field_is_as_on_the_embedded_backend_or_refused(
    install, open_generator, reference, version, options, refused
):
    install(version)
    generator = open_generator(enable_prefix_caching=False, backend_options=options)
    seen = set()

    for field, changed in GREEDY.items():
        params = SamplingParams(**{"temperature": 0, "max_tokens": 24} | changed)
        try:
            [output] = generator.generate(PROMPT, params)
        except UnsupportedParameterError:
            seen.add(field)
        else:
            [expected] = reference.generate(PROMPT, params)
            assert output.token_ids == expected.token_ids, field
            assert ranks(output.outputs[0].logprobs) == ranks(
                expected.outputs[0].logprobs
            )
            assert ranks(output.prompt_logprobs) == ranks(expected.prompt_logprobs)
    seen |= {name for name, is_held in DRAWS.items() if not is_held(generator)}

    assert seen == refused | {"structured_outputs"}


def ranks(entries):
    """Return the ids of log-probabilities, their ranks, and their values rounded."""
    return [
        entry
        and {
            token_id: (each.rank, pytest.approx(each.logprob, abs=1e-3))
            for token_id, each in entry.items()
        }
        for entry in entries or ()
    ]


def draws(generator) -> bool:
    """Whether temperature is honoured; `False` if it is refused."""
    params = SamplingParams(temperature=2.0, max_tokens=16, ignore_eos=True)
    try:
        [first], [second] = [generator.generate(UNSURE, params) for _ in range(2)]
    except UnsupportedParameterError:
        return False
    assert first.token_ids != second.token_ids
    return True


def repeats(generator) -> bool:
    """Whether a seed is honoured beside other requests; `False` if it is refused."""
    params = SamplingParams(temperature=2.0, max_tokens=16, ignore_eos=True, seed=7)
    beside = SamplingParams(temperature=2.0, max_tokens=24, ignore_eos=True)
    try:
        [alone] = generator.generate(UNSURE, params)
    except UnsupportedParameterError:
        return False
    *_, among = generator.generate([*OTHERS, *UNSURE], [beside, beside, params])
    assert alone.token_ids == among.token_ids
    return True


DRAWS = {"temperature": draws, "seed": repeats}


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.3rc24", "1.4"])
def test_structured_outputs_are_honoured_with_a_tokenizer_of_its_own(
    install, open_generator, reference, version
):
    install(version)
    generator = open_generator(backend_options=GUIDED)
    params = SamplingParams(temperature=0, **GREEDY["structured_outputs"])

    [output] = generator.generate(PROMPT, params)

    [expected] = reference.generate(PROMPT, params)
    assert output.text == expected.text  # the embedded one knows further EOS tokens
