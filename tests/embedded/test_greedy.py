# SPDX-License-Identifier: Apache-2.0

"""Greedy tokens equal those of `generate`, one prompt at a time, whatever joins when."""

from __future__ import annotations

import pytest
import torch
from embedded.tiny_models import (
    CORE,
    POSITIONS,
    VARIANTS,
    family_of,
    generate_alone,
    make_model,
    serve,
    slots_for,
)

from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.families import FAMILIES, OWN_ATTENTION, RECURRENT

PROMPTS = 80
"""Of each family of the core: more than 300 together."""

OTHER_PROMPTS = 40
"""Of each shape of each other family."""

NEAR_TIE = 1e-4
"""Two logits closer than this may change places with the shape of the batch (fp32)."""


def gap_where_they_part(model, request, expected, got) -> float:
    """Return how far apart the two best logits are at the first difference."""
    pairs = zip(expected, got, strict=True)
    place = next(i for i, (one, other) in enumerate(pairs) if one != other)
    ids = torch.tensor([[*request.prompt_token_ids, *expected[:place]]])
    with torch.inference_mode():
        best = model(ids).logits[0, -1].topk(2).values
    return (best[0] - best[1]).item()


def assert_same_tokens(model, known, got, *, near_tie=NEAR_TIE) -> None:
    """Equal but for near ties, which are printed with their gap."""
    for each in known:
        tokens = got[each.request.request_id]
        if tokens != each.tokens:
            gap = gap_where_they_part(model, each.request, each.tokens, tokens)
            print(f"near tie in {each.request.request_id}: {gap:.2e}")  # noqa: T201
            assert gap < near_tie, each.request.request_id


def poison(engine: TransformersSlotEngine) -> None:
    """Fill all rows that nobody holds with NaN."""
    cache = engine._cache
    for row, owner in enumerate(engine._rows):
        if owner is None:
            for tensor in [*cache.tensors, *cache.states]:
                tensor[row] = torch.nan
            cache.written[row] = cache.capacity


class PoisonedEngine(TransformersSlotEngine):
    """An engine whose free rows are full of NaN, from the start and after each call."""

    def __init__(self, model, **options) -> None:
        super().__init__(model, **options)
        poison(self)

    def prefill(self, chunks):
        result = super().prefill(chunks)
        poison(self)
        return result

    def decode(self, slots):
        tokens = super().decode(slots)
        poison(self)
        return tokens

    def release(self, slot):
        super().release(slot)
        poison(self)


SLOTS_AND_BUDGETS = pytest.mark.parametrize(
    ("num_slots", "budget"),
    [(1, 2048), (2, 50), (5, 2048), (8, 90)],
    ids=["1 slot", "2 slots in chunks", "5 slots", "8 slots in chunks"],
)


def check_variant(reference, variant, count, *, engine_class, num_slots, budget):
    known = reference.known(variant, count)
    engine = engine_class(
        make_model(variant),
        num_slots=slots_for(variant, num_slots),
        max_model_len=224,
    )

    got = serve(
        engine,
        [each.request for each in known],
        seed=num_slots,
        max_num_batched_tokens=budget,
    )

    assert_same_tokens(reference.model(variant), known, got)


@SLOTS_AND_BUDGETS
@pytest.mark.parametrize("family", CORE)
def test_tokens_are_those_of_generate(reference, family, num_slots, budget):
    check_variant(
        reference,
        family,
        PROMPTS,
        engine_class=TransformersSlotEngine,
        num_slots=num_slots,
        budget=budget,
    )


@pytest.mark.parametrize("family", [v for v in VARIANTS if v not in CORE])
def test_tokens_of_every_family_are_those_of_generate(reference, family):
    """All prompts in eight slots, and some of them in fewer; freed rows are NaN."""
    for count, num_slots, budget in (
        (OTHER_PROMPTS, 8, 90),
        (8, 5, 2048),
        (6, 2, 50),
        (3, 1, 2048),
    ):
        check_variant(
            reference,
            family,
            count,
            engine_class=PoisonedEngine,
            num_slots=num_slots,
            budget=budget,
        )


@pytest.mark.large
@SLOTS_AND_BUDGETS
def test_tokens_of_many_prompts_are_those_of_generate(
    reference, family, num_slots, budget
):
    check_variant(
        reference,
        family,
        PROMPTS,
        engine_class=PoisonedEngine,
        num_slots=num_slots,
        budget=budget,
    )


@pytest.mark.parametrize("budget", [2048, 40], ids=["whole", "in chunks"])
@pytest.mark.parametrize("family", CORE)
def test_a_refilled_row_shows_nothing_of_its_last_owner(reference, family, budget):
    check_variant(
        reference,
        family,
        40,
        engine_class=PoisonedEngine,
        num_slots=3,
        budget=budget,
    )


def test_the_poison_would_show(reference, monkeypatch):
    """Were rows not cleared, the test above would fail."""
    known = reference.known("llama", 10)
    engine = PoisonedEngine(make_model("llama"), num_slots=3, max_model_len=224)
    monkeypatch.setattr(engine._cache, "clear", lambda rows: None)

    with pytest.raises(AssertionError, match="not finite"):
        serve(engine, [each.request for each in known])


def test_outputs_of_the_random_models_vary(reference):
    """Otherwise equality would say little."""
    for variant in VARIANTS:
        known = reference.known(variant, OTHER_PROMPTS)
        assert len({token for each in known for token in each.tokens}) > 30, variant


def test_every_family_that_is_served_is_among_them():
    assert {family_of(variant) for variant in VARIANTS} == set(FAMILIES)
    assert OWN_ATTENTION < set(FAMILIES)


def test_windows_are_shorter_than_prompts(reference):
    """Otherwise the windows of the random models would say nothing."""
    for variant in VARIANTS:
        config = reference.model(variant).config
        if window := getattr(config, "sliding_window", None):
            assert window < 30


def test_soft_capping_moves_the_tokens(reference):
    """transformers drops it in SDPA, its default; eager attention is the reference."""
    known = reference.known("gemma2", 12)
    model = make_model("gemma2")
    model.set_attn_implementation("sdpa")

    assert model.config.attn_logit_softcapping
    assert [generate_alone(model, each.request) for each in known] != [
        each.tokens for each in known
    ]


@pytest.mark.parametrize("variant", sorted(RECURRENT))
def test_a_prompt_of_a_recurrent_model_is_never_cut(reference, variant):
    """Its state could not go on from a chunk, so the budget of a step gives way."""
    engine = TransformersSlotEngine(make_model(variant), num_slots=2, max_model_len=224)
    widths = []
    width = engine._width
    engine._width = lambda group: widths.append(width(group)) or widths[-1]

    known = reference.known(variant, 6)
    serve(engine, [each.request for each in known], max_num_batched_tokens=10)

    lengths = {len(each.request.prompt_token_ids) for each in known}
    assert lengths == set(widths)


def test_a_model_of_full_length_is_served_to_its_last_position(reference, family):
    request = reference.known(family, 1)[0].request
    prompt = tuple(range(240))
    full = reference.full_length(family, prompt)
    engine = TransformersSlotEngine(
        make_model(family), num_slots=slots_for(family, 2), max_model_len=256
    )

    got = serve(engine, [full.request, request])

    assert len(full.tokens) == POSITIONS - 240
    assert_same_tokens(reference.model(family), [full], got)
