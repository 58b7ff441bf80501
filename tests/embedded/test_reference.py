# SPDX-License-Identifier: Apache-2.0

"""The oracle of the contract against transformers' own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from unillm.model.find import find_model
from unillm.testing.asking import ANSWERS, UNSURE, bundled_asker
from unillm.testing.reference import ReferenceModel


@pytest.fixture(scope="module")
def reference():
    return ReferenceModel()


@pytest.fixture(scope="module")
def theirs():
    path = find_model("unillm/tiny")
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)


@pytest.mark.parametrize("prompt", [*ANSWERS, UNSURE])
def test_logits_are_those_of_transformers(reference, theirs, prompt):
    ids = [*bundled_asker().ids(prompt), *range(100, 110)]
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()

    rows = [reference.logits(ids[:place]) for place in range(1, len(ids) + 1)]

    # transformers turns positions in float32.
    assert np.abs(np.stack(rows) - expected).max() < 1e-4


def test_a_prompt_computed_at_once_equals_one_computed_token_by_token():
    ids = bundled_asker().ids("Count from 40 to 52:")
    at_once, stepwise = ReferenceModel(), ReferenceModel()

    for place in range(1, len(ids) + 1):
        stepwise.logits(ids[:place])

    assert np.allclose(at_once.logits(ids), stepwise.logits(ids), atol=1e-10)
