# SPDX-License-Identifier: Apache-2.0

"""Greedy tokens equal those of `generate`, one prompt at a time, whatever joins when."""

from __future__ import annotations

import pytest
from embedded.serving import (
    PoisonedEngine,
    assert_same_tokens,
    generate_alone,
    serve,
    serve_known,
)
from embedded.tiny_models import (
    CORE,
    POSITIONS,
    RECURRENT,
    VARIANTS,
    make_model,
    model_type_of,
    slots_for,
)

from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.families import FAMILIES

PROMPTS = 80
"""Prompts of each family of the core: more than 300 together."""

OTHER_PROMPTS = 40
"""Prompts of each shape of each other family."""

SLOTS_AND_BUDGETS = pytest.mark.parametrize(
    ("num_slots", "budget"),
    [(1, 2048), (2, 50), (3, 40), (5, 2048), (8, 90)],
    ids=["1 slot", "2, in chunks", "3, in small chunks", "5 slots", "8, in chunks"],
)

MANY_PROMPTS = [
    variant if variant in CORE else pytest.param(variant, marks=pytest.mark.large)
    for variant in VARIANTS
]


def make_engine(variant, num_slots):
    slots = slots_for(variant, num_slots)
    return PoisonedEngine(make_model(variant), num_slots=slots, max_model_len=224)


@SLOTS_AND_BUDGETS
@pytest.mark.parametrize("family", MANY_PROMPTS)
def test_tokens_of_many_prompts_are_those_of_generate(
    reference, family, num_slots, budget
):
    """Refilled rows show nothing of their last owner: free rows are NaN."""
    engine = make_engine(family, num_slots)

    serve_known(engine, reference, family, PROMPTS, budget=budget)


@pytest.mark.parametrize("family", [v for v in VARIANTS if v not in CORE])
def test_tokens_of_every_family_are_those_of_generate(reference, family):
    """All prompts run in eight slots, some of them in fewer; free rows are NaN."""
    for count, num_slots, budget in (
        (OTHER_PROMPTS, 8, 90),
        (8, 5, 2048),
        (6, 2, 50),
        (3, 1, 2048),
    ):
        engine = make_engine(family, num_slots)
        serve_known(engine, reference, family, count, budget=budget)


def test_rows_that_are_not_cleared_would_show(reference, monkeypatch):
    """Without clearing, the tests above fail."""
    known = reference.known("llama", 10)
    engine = make_engine("llama", 3)
    monkeypatch.setattr(engine._cache, "clear", lambda rows: None)

    with pytest.raises(AssertionError, match="not finite"):
        serve(engine, [each.request for each in known])


def test_tokens_of_the_random_models_vary(reference):
    """Otherwise equality would prove little."""
    for variant in VARIANTS:
        known = reference.known(variant, OTHER_PROMPTS)
        assert len({token for each in known for token in each.tokens}) > 30, variant


def test_every_served_family_is_among_the_models():
    assert {model_type_of(variant) for variant in VARIANTS} == set(FAMILIES)


def test_windows_are_shorter_than_prompts(reference):
    """Otherwise the windows of the random models would hide nothing."""
    for variant in VARIANTS:
        config = reference.model(variant).config
        if window := getattr(config, "sliding_window", None):
            assert window < 30


def test_soft_capping_changes_the_tokens(reference):
    """transformers drops it in SDPA, its default; eager attention is the reference."""
    known = reference.known("gemma2", 12)
    model = make_model("gemma2")
    model.set_attn_implementation("sdpa")

    without = [generate_alone(model, each.request) for each in known]

    assert model.config.attn_logit_softcapping
    assert without != [each.tokens for each in known]


@pytest.mark.parametrize("family", RECURRENT)
def test_a_prompt_of_a_recurrent_model_is_neither_cut_nor_padded(
    reference, family, monkeypatch
):
    """Its state could not go on from a chunk, so a long prompt exceeds the budget."""
    engine = make_engine(family, 2)
    prefill = engine.prefill
    seen = []

    def record(chunks):
        result = prefill(chunks)
        seen.extend(zip(chunks, result.padding, strict=True))
        return result

    monkeypatch.setattr(engine, "prefill", record)
    known = reference.known(family, 6)
    serve(engine, [each.request for each in known], max_num_batched_tokens=10)

    assert [each.is_first and each.is_last for each, _ in seen] == [True] * len(known)
    assert {padding for _, padding in seen} == {0}


def test_a_model_of_full_length_is_served_to_its_last_position(reference, family):
    request = reference.known(family, 1)[0].request
    full = reference.full_length(family, tuple(range(240)))
    engine = TransformersSlotEngine(
        make_model(family), num_slots=slots_for(family, 2), max_model_len=256
    )

    got = serve(engine, [full.request, request])

    assert len(full.tokens) == POSITIONS - 240
    assert_same_tokens(reference.model(family), [full], got)
