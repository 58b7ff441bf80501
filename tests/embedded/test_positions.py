# SPDX-License-Identifier: Apache-2.0

"""The context of a model is one number for `inspect`, for `plan` and for the engine."""

from __future__ import annotations

import pytest

from unillm import inspect_model
from unillm.embedded.loading import load_engine
from unillm.model.find import BUNDLED
from unillm.preparation import plan_engine
from unillm.text.loading import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BUNDLED["unillm/tiny"])


def test_inspect_plan_and_engine_agree_on_the_context(reference, family, tokenizer):
    path = reference.path(family)

    inspected = inspect_model(path, tokenizer=tokenizer).context_length
    planned = plan_engine(path, backend="transformers").memory.limits.max_model_len
    served = load_engine(path, max_num_seqs=1).max_model_len

    assert (inspected, planned) == (served, served)
