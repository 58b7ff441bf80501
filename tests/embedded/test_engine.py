# SPDX-License-Identifier: Apache-2.0

"""The slot engine besides its greedy tokens: rows, precision, faults and its life."""

from __future__ import annotations

import threading

import attrs
import pytest
import torch
from embedded.serving import greedy_request, serve, whole_prompt
from embedded.tiny_models import VOCAB, make_model

from unillm import SamplingParams
from unillm.embedded.engine import TransformersSlotEngine
from unillm.engines.slots import PromptChunk
from unillm.errors import EngineOutOfMemoryError, UnsupportedModelError
from unillm.scheduling.slots import SlotScheduler


@pytest.fixture
def engine():
    return TransformersSlotEngine(make_model("llama"), num_slots=4, max_model_len=256)


def test_limits_are_those_of_the_call(engine):
    assert engine.num_slots == 4
    assert engine.max_model_len == 256
    assert engine.vocab_size == VOCAB


# ----------------------------------------------------------------- rows and neighbours


def test_sampled_tokens_do_not_depend_on_slots_and_neighbours():
    """In float64, where the shape of a batch cannot move a draw over its border."""
    params = [
        SamplingParams(max_tokens=None, temperature=1.3),
        SamplingParams(max_tokens=None, top_p=0.8, top_k=40, logprobs=3),
        SamplingParams(max_tokens=None, repetition_penalty=1.4, min_tokens=4),
        SamplingParams(max_tokens=None, temperature=0, frequency_penalty=1.0),
    ]
    requests = [
        attrs.evolve(
            greedy_request(number, range(number, 3 * number + 5), 12),
            params=params[number % 4],
            stop_token_ids=frozenset({3, 99}),
        )
        for number in range(12)
    ]

    def run(num_slots, chosen, budget=2048):
        engine = TransformersSlotEngine(
            make_model("llama").double(), num_slots=num_slots, max_model_len=128
        )
        return serve(engine, chosen, seed=num_slots, max_num_batched_tokens=budget)

    together = run(8, requests)

    assert run(3, requests, 20) == together
    assert run(5, requests[::-1]) == together
    for request in requests[:4]:
        assert run(1, [request])[request.request_id] == together[request.request_id]
    assert len({token for tokens in together.values() for token in tokens}) > 30


def test_any_slots_may_be_stepped_in_any_order(engine, reference):
    known = reference.known("llama", 40)
    one, two, three = [k for k in known if 8 <= len(k.tokens) <= 16][:3]
    chunks = [
        whole_prompt(slot, k.request) for slot, k in ((2, one), (0, two), (3, three))
    ]
    tokens = {
        chunk.slot: [token.token_id]
        for chunk, token in zip(chunks, engine.prefill(chunks).tokens, strict=True)
    }

    for slots in ([3], [3, 2], [0, 3], [2], [3, 0, 2], [0], [2, 0]):
        for slot, token in zip(slots, engine.decode(slots), strict=True):
            tokens[slot].append(token.token_id)

    for slot, k in ((2, one), (0, two), (3, three)):
        assert tuple(tokens[slot]) == k.tokens[: len(tokens[slot])]


def test_rows_in_use_are_the_leading_ones(engine):
    requests = [greedy_request(n, range(5), 20) for n in range(4)]
    engine.prefill([whole_prompt(slot, r) for slot, r in enumerate(requests)])
    engine.release(0)
    engine.release(2)

    engine.decode([1, 3])

    assert [row.slot for row in engine._rows.all] == [3, 1, 2, 0]
    assert [row.is_live for row in engine._rows.all] == [True, True, False, False]


def test_padding_is_counted_for_each_chunk(engine):
    requests = [
        greedy_request(n, range(length), 4) for n, length in enumerate((30, 20))
    ]
    long = greedy_request(2, range(100), 4)
    first = PromptChunk(slot=2, request=long, start=0, end=50)
    rest = PromptChunk(slot=2, request=long, start=50, end=100)

    begun = engine.prefill(
        [whole_prompt(0, requests[0]), whole_prompt(1, requests[1]), first]
    )
    ended = engine.prefill([rest])

    assert list(begun.padding) == [2, 12, 2]
    assert begun.tokens[2] is None
    assert list(ended.padding) == [2]
    assert ended.tokens[0] is not None


def test_decoding_no_slots_returns_no_tokens(engine):
    assert engine.decode([]) == []


# -------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_serves_all_rows(dtype):
    """Logits may differ in the last bits, so only lengths and range are compared."""
    model = make_model("llama").to(dtype)
    engine = TransformersSlotEngine(model, num_slots=3, max_model_len=128)
    requests = [greedy_request(n, range(n + 1, 2 * n + 9), 6) for n in range(7)]

    tokens = serve(engine, requests, max_num_batched_tokens=10)

    assert {len(ids) for ids in tokens.values()} == {6}
    assert all(0 <= token < VOCAB for ids in tokens.values() for token in ids)


def test_logprobs_are_those_of_the_model(reference):
    model = reference.model("llama")
    request = attrs.evolve(
        greedy_request(0, range(10, 40), 1),
        params=SamplingParams(temperature=0, logprobs=5),
    )
    engine = TransformersSlotEngine(make_model("llama"), num_slots=1, max_model_len=64)

    (token,) = engine.prefill([whole_prompt(0, request)]).tokens

    with torch.inference_mode():
        logits = model(torch.tensor([request.prompt_token_ids])).logits[0, -1]
    expected = logits.log_softmax(-1).topk(5)
    assert list(token.logprobs.top_ids) == expected.indices.tolist()
    assert list(token.logprobs.top_logprobs) == pytest.approx(
        expected.values.tolist(), abs=1e-4
    )


# ----------------------------------------------------------------------------- faults


def test_a_request_whose_logits_are_nan_fails_alone(reference):
    """One id of the vocabulary has an embedding of NaN."""
    model = make_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = torch.nan
    healthy = [
        k
        for k in reference.known("llama", 40)
        if 7 not in (*k.request.prompt_token_ids, *k.tokens)
    ][:8]
    sick = greedy_request(900, [5, 6, 7, 8], 10)
    scheduler = SlotScheduler(
        TransformersSlotEngine(model, num_slots=3, max_model_len=224)
    )
    for request in [*(k.request for k in healthy[:4]), sick]:
        scheduler.add_request(request)
    for k in healthy[4:]:
        scheduler.add_request(k.request)

    outputs = []
    while scheduler.has_unfinished():
        outputs += scheduler.step()

    failed = [o for o in outputs if o.error]
    assert [o.request_id for o in failed] == [sick.request_id]
    assert "not finite" in failed[0].error
    for k in healthy:
        ids = [
            t
            for o in outputs
            if o.request_id == k.request.request_id
            for t in o.token_ids
        ]
        assert tuple(ids) == k.tokens


def test_a_cache_that_cannot_fit_is_refused_with_numbers():
    with pytest.raises(EngineOutOfMemoryError, match=r"GiB.* max_num_seqs=100000000"):
        TransformersSlotEngine(make_model("llama"), num_slots=10**8, max_model_len=256)


def test_a_model_outside_the_attention_interface_is_refused(monkeypatch):
    model = make_model("llama")
    monkeypatch.setattr(model, "set_attn_implementation", lambda name: None)

    with pytest.raises(
        UnsupportedModelError, match=r"does not use .* attention interface"
    ):
        TransformersSlotEngine(model, num_slots=1, max_model_len=64)


# --------------------------------------------------------------------- life of an engine


def test_an_engine_is_built_in_one_thread_and_used_in_another(engine, reference):
    known = reference.known("llama", 5)
    got = {}

    def work():
        got.update(serve(engine, [k.request for k in known]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert got == {k.request.request_id: k.tokens for k in known}


def test_serving_changes_no_global_setting():
    def state():
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.initial_seed(),
        )

    before = state()
    engine = TransformersSlotEngine(make_model("gpt2"), num_slots=2, max_model_len=64)
    serve(engine, [greedy_request(n, range(n + 1), 3) for n in range(4)])

    assert state() == before


def test_closing_frees_and_may_be_repeated(engine):
    engine.prefill([whole_prompt(0, greedy_request(0, range(5), 3))])

    engine.close()
    engine.close()

    assert engine._model is None
    assert engine._cache.tensors == []
