# SPDX-License-Identifier: Apache-2.0

"""Inputs and shapes of CUDA graphs, on any device: each step runs instead of a graph."""

from __future__ import annotations

import embedded.spans  # noqa: F401 - attention by spans for a CPU
import pytest
import torch
from embedded.serving import (
    Known,
    PoisonedEngine,
    assert_same_tokens,
    conversations,
    generate_alone,
    greedy_request,
    serve,
    serve_known,
    whole_prompt,
)
from embedded.tiny_models import (
    RECURRENT,
    VARIANTS,
    family_of,
    make_model,
    model_type_of,
)
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from unillm.embedded import flash
from unillm.embedded.steps.cuda_graphs import GraphRunner, row_counts, seen_counts
from unillm.embedded.weights.fused import fuse_projections
from unillm.scheduling.slots import SlotScheduler

NOT_FUSED = {
    "bloom",
    "codegen",
    "falcon",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "mpt",
    "persimmon",
    "phi3",
}
"""Families whose code already has one layer for each group."""


class PaddedEngine(PoisonedEngine):
    """A fused engine that computes the shapes of graphs; free rows are NaN."""

    def __init__(self, model, **options) -> None:
        fuse_projections(model)
        super().__init__(model, **options)
        self._runner = GraphRunner(
            self._model, self._cache, self._masks, record=lambda step: step
        )
        self.joins_steps = self._runner.continues


ATTENDING = tuple(
    each
    for each in VARIANTS
    if each not in RECURRENT and not family_of(each).one_at_a_time
)


def check(reference, family, count, *, num_slots, budget=2048):
    engine = PaddedEngine(make_model(family), num_slots=num_slots, max_model_len=224)

    serve_known(engine, reference, family, count, budget=budget)


@pytest.mark.parametrize("family", ATTENDING)
def test_padded_shapes_give_the_tokens_of_generate(reference, family):
    check(reference, family, 10, num_slots=5, budget=90)


@pytest.mark.large
@pytest.mark.parametrize("family", ATTENDING)
def test_padded_shapes_of_many_prompts_give_the_tokens_of_generate(reference, family):
    check(reference, family, 40, num_slots=5)
    check(reference, family, 40, num_slots=11, budget=90)


BY_SPANS = ("llama", "qwen2", "gemma", "olmo2", "mixtral", "phi3")


@pytest.mark.parametrize("family", BY_SPANS)
def test_prompts_and_steps_in_one_pass_give_the_tokens_of_generate(
    reference, family, monkeypatch
):
    """Attention reads the cache by spans, in plain torch; free rows are NaN."""
    monkeypatch.setattr(flash, "serves", lambda model: True)
    monkeypatch.setattr(flash, "pays", lambda rows, seen: rows > 2)
    model = reference.model(family)
    requests = conversations(family)
    known = [Known(each, generate_alone(model, each)) for each in requests]
    for num_slots, budget in (4, 2048), (5, 40), (1, 90):
        engine = PaddedEngine(
            make_model(family), num_slots=num_slots, max_model_len=224
        )
        joined = []
        advance = engine.advance

        def record(chunks, slots, advance=advance, joined=joined):
            joined.append(len(slots))
            return advance(chunks, slots)

        monkeypatch.setattr(engine, "advance", record)
        scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
        got = serve(engine, requests, scheduler=scheduler)

        assert_same_tokens(model, known, got)
        assert num_slots == 1 or max(joined) >= num_slots - 2
        assert scheduler.counters.cached_tokens > 0


def test_padding_is_counted_for_the_first_prompt():
    engine = PaddedEngine(make_model("llama"), num_slots=2, max_model_len=224)
    requests = [greedy_request(n, range(30 + n), 4) for n in range(2)]

    result = engine.prefill([whole_prompt(n, r) for n, r in enumerate(requests)])

    assert list(result.padding) == [3, 0]


@pytest.mark.parametrize("family", ATTENDING)
def test_fused_layers_give_the_same_logits_and_take_the_same_memory(family):
    plain, fused = make_model(family), make_model(family)
    ids = torch.arange(34).view(2, 17)

    groups = fuse_projections(fused)

    assert groups or model_type_of(family) in NOT_FUSED
    assert fused.get_memory_footprint() == plain.get_memory_footprint()
    with torch.inference_mode():
        torch.testing.assert_close(fused(ids).logits, plain(ids).logits)


def test_layers_with_hooks_or_of_other_types_are_not_fused():
    model = make_model("llama")
    for layer in model.model.layers:
        layer.self_attn.k_proj.register_forward_hook(lambda *_: None)
        layer.mlp.up_proj = NonDynamicallyQuantizableLinear(64, 128, bias=False)

    assert fuse_projections(model) == 0


def test_shapes_are_few_and_reach_the_largest():
    assert row_counts(1) == [1]
    assert row_counts(5) == [1, 2, 4, 5]
    assert row_counts(20) == [1, 2, 4, 8, 16, 20]
    assert seen_counts(192) == [192]
    assert seen_counts(1088) == [256, 512, 1024, 1088]
