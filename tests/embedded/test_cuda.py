# SPDX-License-Identifier: Apache-2.0

"""The embedded engine on a CUDA device: recorded and compiled passes."""

from __future__ import annotations

import attrs
import pytest
import torch
from embedded.serving import (
    CUDA_NEAR_TIE,
    Known,
    PoisonedEngine,
    assert_same_tokens,
    conversations,
    generate_alone,
    serve,
    serve_known,
)
from embedded.tiny_models import (
    CORE,
    RECURRENT,
    VARIANTS,
    family_of,
    make_model,
    model_type_of,
    slots_for,
)

from unillm.embedded import flash, prefixes
from unillm.embedded.steps import cuda_graphs as graphs
from unillm.embedded.steps.cuda_graphs import GraphRunner
from unillm.embedded.steps.eager import EagerRunner
from unillm.embedded.weights.fused import fuse_projections
from unillm.scheduling.slots import SlotScheduler

if torch.cuda.is_available():
    from unillm.embedded import split_kernel  # needs Triton

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # Advice of torch's compiler, which as an error would end the compilation.
    pytest.mark.filterwarnings("ignore::UserWarning:torch._inductor.*"),
]

ATTENDING = tuple(each for each in VARIANTS if each not in RECURRENT)

COMPILED = (*CORE, "gemma2", "gemma3_text", "phi3, window", "opt")

EXPERTS = frozenset(
    {
        "deepseek_v2",
        "deepseek_v3",
        "glm4_moe",
        "glm4_moe_lite",
        "gpt_oss",
        "granitemoe",
        "mixtral",
        "olmoe",
        "qwen2_moe",
        "qwen3_moe",
    }
)
"""Families whose experts fetch their numbers of tokens to the host, in float32."""

LONG_ROPE = "phi3, longrope"
"""Its choice of two scalings depends on the positions, which it fetches."""

ALIBI = "falcon, ALiBi"
"""Its code makes masks without a fetch, unlike others with their own attention."""

GATES = 0.2
"""In bfloat16, experts with nearly the same score change places too, which moves the
logits more."""

KERNELS = 0.15
"""In bfloat16, logits above 8 are multiples of 1/16, and two kernels of attention round
differently."""

BUDGETS = pytest.mark.parametrize("budget", [2048, 40], ids=["whole", "in chunks"])


@pytest.fixture
def uncompiled(monkeypatch):
    def refuse(model, cache):
        raise ValueError("not in this test")

    monkeypatch.setattr(graphs, "CompiledLayers", refuse)


def check(reference, family, *, budget=2048, **options):
    model = make_model(family).cuda()
    if family not in RECURRENT:  # as loading does
        fuse_projections(model)
    num_slots = slots_for(family, 5)
    engine = PoisonedEngine(model, num_slots=num_slots, max_model_len=224, **options)

    serve_known(engine, reference, family, 40, budget=budget, near_tie=CUDA_NEAR_TIE)

    return engine


@pytest.mark.usefixtures("uncompiled")
@BUDGETS
@pytest.mark.parametrize("family", ATTENDING)
def test_recorded_passes_give_the_tokens_of_generate(reference, family, budget):
    engine = check(reference, family, budget=budget)

    own_attention = family_of(family).own_attention and family != ALIBI
    fetches = own_attention or model_type_of(family) in EXPERTS or family == LONG_ROPE
    expected = EagerRunner if fetches else GraphRunner
    assert isinstance(engine._runner, expected)


@BUDGETS
@pytest.mark.parametrize("family", COMPILED)
def test_compiled_passes_give_the_tokens_of_generate(reference, family, budget, caplog):
    engine = check(reference, family, budget=budget)

    assert isinstance(engine._runner, GraphRunner)
    assert not [each for each in caplog.records if each.name.startswith("unillm")]


@pytest.mark.parametrize("family", [*CORE, *RECURRENT])
def test_eager_passes_give_the_tokens_of_generate(reference, family):
    engine = check(reference, family, enforce_eager=True)

    assert isinstance(engine._runner, EagerRunner)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mixtral"])
@BUDGETS
@pytest.mark.usefixtures("uncompiled")
def test_tokens_in_bfloat16_are_those_of_one_row_but_for_near_ties(
    reference, family, budget, monkeypatch
):
    """All steps attend by spans where the family does; free rows are NaN."""
    check_near_ties(reference, family, budget, monkeypatch)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@BUDGETS
def test_compiled_tokens_in_bfloat16_are_those_of_one_row_but_for_near_ties(
    reference, family, budget, monkeypatch
):
    """Rows that decode attend by the kernel for uneven rows; free rows are NaN."""
    attended = []
    attend = split_kernel.attend
    monkeypatch.setattr(
        split_kernel, "attend", lambda *args: attended.append(args) or attend(*args)
    )

    check_near_ties(reference, family, budget, monkeypatch)

    assert attended


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(32, 8), (28, 4), (4, 4), (64, 2)])
@pytest.mark.parametrize("dim", [16, 64, 128, 256])
def test_the_kernel_for_uneven_rows_attends_like_sdpa(dtype, heads, dim):
    count, (num_heads, kv_heads), positions = 7, heads, 640
    torch.manual_seed(dim + num_heads)
    options = {"device": "cuda", "dtype": dtype}
    query = torch.randn(count, num_heads, dim, **options)
    key, value = torch.randn(2, 9, kv_heads, positions, dim, **options)
    lengths = [1, 2, 63, 64, 65, 333, 640]
    rows = torch.randperm(9)[:count].tolist()
    for row, length in zip(rows, lengths, strict=True):
        key[row, :, length:] = value[row, :, length:] = torch.nan
    places = [row * kv_heads * positions for row in rows]
    spans = torch.tensor([range(count + 1), [*places, 0], [*lengths, 0]]).int().cuda()

    got = split_kernel.attend(query, key, value, spans, dim**-0.5)

    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        expected = torch.nn.functional.scaled_dot_product_attention(
            query[number, None, :, None].float(),
            key[row, None, :, :length].float(),
            value[row, None, :, :length].float(),
            enable_gqa=True,
        )[0, :, 0]
        torch.testing.assert_close(got[number].float(), expected, atol=0.01, rtol=0.01)


def check_near_ties(reference, family, budget, monkeypatch):
    monkeypatch.setattr(flash, "pays", lambda rows, seen: True)
    monkeypatch.setitem(prefixes.SHORTEST, "cuda", 16)
    requests = [known.request for known in reference.known(family, 40)]
    requests += [
        attrs.evolve(each, request_id=f"c{each.arrival}")
        for each in conversations(family)
    ]

    def run(num_slots, **options):
        model = make_model(family).to(torch.bfloat16).cuda()
        fuse_projections(model)
        engine = PoisonedEngine(
            model, num_slots=num_slots, max_model_len=224, **options
        )
        return serve(engine, requests, max_num_batched_tokens=budget), engine

    together, engine = run(5)
    monkeypatch.setattr(flash, "serves", lambda model: False)
    alone, masked = run(1, enable_prefix_caching=False)

    assert isinstance(engine._runner, GraphRunner)
    assert engine._masks.by_spans == engine.joins_steps == (family != "gemma2")
    assert not masked._masks.by_spans
    parted = [r for r in requests if together[r.request_id] != alone[r.request_id]]
    gaps = [
        gap_of(reference.model(family), r, alone[r.request_id], together[r.request_id])
        for r in parted
    ]
    print(f"{family}: {len(parted)} of {len(requests)} part, gaps {gaps}")  # noqa: T201
    assert max(gaps, default=0.0) < (GATES if family in EXPERTS else KERNELS)


def gap_of(model, request, one, other) -> float:
    """Return how far apart the two tokens' logits are in float32 where they part."""
    index = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    ids = torch.tensor([[*request.prompt_token_ids, *one[:index]]])
    with torch.inference_mode():
        logits = model(ids).logits[0, -1]
    return abs(logits[one[index]] - logits[other[index]]).item()


@BUDGETS
@pytest.mark.parametrize("family", [*CORE, "gemma2", "bloom"])
def test_tokens_with_taken_prefixes_are_those_of_generate(
    reference, family, budget, uncompiled, monkeypatch
):
    """All prefixes of a block are taken over, short as they are."""
    monkeypatch.setattr(prefixes, "SHORTEST_MASKED", 16)
    requests = conversations(family)
    model = reference.model(family)
    known = [Known(each, generate_alone(model, each)) for each in requests]
    served = make_model(family).cuda()
    fuse_projections(served)
    engine = PoisonedEngine(served, num_slots=4, max_model_len=224)

    scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
    got = serve(engine, requests, scheduler=scheduler)

    assert_same_tokens(model, known, got, near_tie=CUDA_NEAR_TIE)
    assert scheduler.counters.cached_tokens > 100


def test_closing_returns_the_memory(reference):
    check(reference, "llama").close()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()

    engine = check(reference, "llama")
    engine.close()
    del engine

    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 2**21
