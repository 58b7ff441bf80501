# SPDX-License-Identifier: Apache-2.0

"""Scaled rotary embeddings, beyond the context that the model was trained on."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from embedded.serving import (
    Known,
    assert_same_tokens,
    generate_alone,
    greedy_request,
    serve,
)
from embedded.tiny_models import CONFIGS, VOCAB
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from unillm.embedded.loading import load_engine

TRAINED = 64
FACTOR = 4
LENGTHS = (5, 40, 60, 64, 65, 90, 150, 200)


@pytest.fixture(scope="module", params=["llama", "falcon", "gpt_neox"])
def family(request):
    return request.param


@pytest.fixture(scope="module", params=["linear", "dynamic"])
def model(request, family):
    config = CONFIG_MAPPING[family](
        **(CONFIGS[family] | {"max_position_embeddings": TRAINED}),
        rope_scaling={"rope_type": request.param, "factor": float(FACTOR)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return made.eval()


@pytest.fixture(scope="module")
def known(model):
    """Return requests that begin and end within the trained context, and beyond it."""
    rng = random.Random(0)
    found = []
    for number, length in enumerate(LENGTHS):
        prompt = [rng.randrange(VOCAB) for _ in range(length)]
        request = greedy_request(number, prompt, 30)
        # A fresh copy: transformers keeps the frequencies of its longest call.
        found.append(Known(request, generate_alone(copy.deepcopy(model), request)))
    return found


@pytest.mark.parametrize("budget", [2048, 48], ids=["whole prompts", "chunks"])
@pytest.mark.parametrize("slots", [1, 5])
def test_the_tokens_of_each_row_are_those_that_it_has_alone(
    model, known, tmp_path, budget, slots
):
    model.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, max_num_seqs=slots, max_num_batched_tokens=budget)

    assert engine.max_model_len == TRAINED * FACTOR
    got = serve(
        engine,
        [each.request for each in known],
        max_num_batched_tokens=budget,
    )
    assert_same_tokens(model, known, got)


def test_the_scaling_matters(model, known):
    """Otherwise equal tokens would show nothing."""
    plain = copy.deepcopy(model.config)
    plain.rope_parameters = {**plain.rope_parameters, "rope_type": "default"}
    plain.rope_parameters.pop("factor")
    other = AutoModelForCausalLM.from_config(plain, dtype=torch.float32).eval()
    other.load_state_dict(model.state_dict())
    long = [each for each in known if len(each.request.prompt_token_ids) > TRAINED]

    assert [generate_alone(other, each.request) for each in long] != [
        each.tokens for each in long
    ]
