# SPDX-License-Identifier: Apache-2.0

"""The sampler on arrays of numpy: the tokens of the sampler on tensors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sampling.test_sampler import request

from unillm.backend import RequestSampler, Sampler, token_logprobs

VOCAB = 97
STEPS = 40
CPU = torch.device("cpu")

CASES = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.7},
    "top_k": {"temperature": 1.3, "top_k": 5},
    "top_p": {"temperature": 1.0, "top_p": 0.6},
    "min_p": {"temperature": 1.5, "min_p": 0.2},
    "all filters": {"temperature": 2.0, "min_p": 0.01, "top_k": 20, "top_p": 0.8},
    "penalties": {
        "temperature": 0.0,
        "repetition_penalty": 1.4,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.5,
    },
    "drawn penalties": {"temperature": 0.9, "repetition_penalty": 0.7},
    "bias": {"temperature": 0.8, "logit_bias": {3: 4.0, 9: -100.0}},
    "allowed": {"temperature": 1.0, "allowed_token_ids": [1, 5, 80]},
    "min_tokens": {"temperature": 0.0, "min_tokens": 30, "stop": (4, 7)},
    "bad words": {"temperature": 0.0, "bad_words": ((6,), (2, 11))},
    "logprobs": {"temperature": 1.0, "logprobs": 4},
}


def logits_of(steps=STEPS, seed=5):
    numbers = np.random.default_rng(seed)
    return (3 * numbers.standard_normal((steps, VOCAB))).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 7, 2**63 + 11])
def test_a_seed_draws_the_tokens_of_the_sampler_on_tensors(case, seed):
    asked = request(seed, **CASES[case])
    theirs = Sampler(num_slots=1, vocab_size=VOCAB, device=CPU)
    theirs.assign(0, asked)
    ours = RequestSampler(asked)

    for row in logits_of():
        [expected] = theirs.sample(torch.tensor(row[None]), [0])
        found = ours.next(row)
        assert found.token_id == expected.token_id
        assert type(found.token_id) is int
        if expected.logprobs is None:
            assert found.logprobs is None
        else:
            assert found.logprobs.rank == expected.logprobs.rank
            assert found.logprobs.top_ids == expected.logprobs.top_ids
            assert found.logprobs.top_logprobs == pytest.approx(
                expected.logprobs.top_logprobs, abs=1e-5
            )


@pytest.mark.parametrize("case", CASES)
def test_a_request_that_continues_elsewhere_gets_the_same_tokens(case):
    asked = request(3, **CASES[case])
    logits = logits_of()
    whole = RequestSampler(asked)
    tokens = [whole.next(row).token_id for row in logits]

    second = RequestSampler(asked, generated=tokens[:15])
    rest = [second.next(row).token_id for row in logits[15:]]

    assert rest == tokens[15:]


def test_the_logits_of_the_caller_stay_as_they_are():
    asked = request(1, temperature=0.0, logit_bias={2: 9.0}, repetition_penalty=2.0)
    [row] = logits_of(1)
    before = row.copy()

    RequestSampler(asked).next(row)

    assert row.tolist() == before.tolist()


@pytest.mark.parametrize(
    ("value", "fields", "message"),
    [
        (np.nan, {}, "The model's logits for new token 1 are not finite"),
        (np.inf, {"temperature": 1.0}, "The model's logits for new token 1"),
        (np.inf, {"logprobs": 2}, "The model's logits for new token 1"),
        (0.0, {"allowed_token_ids": [4], "bad_words": ((4,),)}, "forbid every token"),
    ],
)
def test_a_token_that_cannot_be_chosen_is_an_error(value, fields, message):
    row = logits_of(1)[0]
    row[12] = value

    token = RequestSampler(request(0, **{"temperature": 0.0, **fields})).next(row)

    assert message in token.error


class Failing:
    """A grammar that fails at its first token."""

    error = ""

    def start(self):
        return self

    def allowed(self):
        return bytes([0xFF] * 13)

    def accept(self, token_id):
        self.error = "it went wrong"


def test_a_grammar_that_fails_is_an_error():
    import attrs

    asked = attrs.evolve(request(0, temperature=0.0), grammar=Failing())

    token = RequestSampler(asked).next(logits_of(1)[0])

    assert "structured_outputs failed at new token 1: it went wrong" in token.error


def test_logprobs_are_those_of_a_softmax():
    found = token_logprobs([0.0, np.log(3.0), 0.0], token_id=0, count=-1)

    assert found.logprob == pytest.approx(np.log(1 / 5))
    assert (found.rank, found.top_ids) == (3, (1, 0, 2))
    assert found.top_logprobs == pytest.approx(np.log([3 / 5, 1 / 5, 1 / 5]))


def test_it_needs_no_torch():
    code = "from unillm.backend import RequestSampler; import sys; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
