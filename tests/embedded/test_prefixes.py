# SPDX-License-Identifier: Apache-2.0

"""Prefixes that a prompt takes over from other rows: tokens, counts and memory."""

from __future__ import annotations

import logging

import attrs
import pytest
import torch
from embedded.serving import (
    NEAR_TIE,
    Known,
    PoisonedEngine,
    assert_same_tokens,
    conversations,
    generate_alone,
    greedy_request,
    serve,
)
from embedded.tiny_models import RECURRENT, VARIANTS, VOCAB, make_model, slots_for

from unillm import SamplingParams
from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.prefixes import SHORTEST
from unillm.errors import EngineOutOfMemoryError
from unillm.scheduling.slots import SlotScheduler

ATTENDING = [variant for variant in VARIANTS if variant not in RECURRENT]

SHORT = SHORTEST["cpu"]


def make_engine(variant: str, num_slots: int, **options) -> PoisonedEngine:
    slots = slots_for(variant, num_slots)
    return PoisonedEngine(
        make_model(variant), num_slots=slots, max_model_len=224, **options
    )


@pytest.mark.parametrize("family", ATTENDING)
def test_tokens_are_those_of_generate(reference, family):
    """In every free row, all positions that no prompt takes over are NaN."""
    requests = conversations(family)
    model = reference.model(family)
    known = [Known(each, generate_alone(model, each)) for each in requests]
    prompt_tokens = sum(len(each.prompt_token_ids) for each in requests)
    for num_slots, budget in (1, 2048), (3, 2048), (4, 50):
        engine = make_engine(family, num_slots)
        scheduler = SlotScheduler(engine, max_num_batched_tokens=budget)
        got = serve(engine, requests, scheduler=scheduler)

        assert_same_tokens(model, known, got)
        counters = scheduler.counters
        assert counters.cached_tokens >= SHORT * (3 if num_slots > 1 else 1)
        assert counters.cached_tokens + counters.prompt_tokens == prompt_tokens


def served(scheduler, prompts, **fields):
    """Serve prompts one after the other; return ids and cached tokens of each."""
    results = []
    for number, prompt in enumerate(prompts):
        request = attrs.evolve(greedy_request(number, prompt, 4), **fields)
        scheduler.add_request(request)
        outputs = []
        while scheduler.has_unfinished():
            outputs += scheduler.step()
        ids = tuple(token for output in outputs for token in output.token_ids)
        [cached] = {output.num_cached_tokens for output in outputs}
        results.append((ids, cached))
    return results


PROMPT = [number * 7 % VOCAB for number in range(100)]


def test_the_count_is_that_of_the_tokens_not_computed():
    engine = make_engine("llama", 2)
    computed = []
    prefill = engine.prefill

    def record(chunks):
        computed.append(sum(chunk.end - chunk.start for chunk in chunks))
        return prefill(chunks)

    engine.prefill = record
    results = served(
        SlotScheduler(engine), [PROMPT, PROMPT, [*PROMPT[:50], 3, 3], [9] * 20]
    )

    assert [cached for _, cached in results] == [0, 99, 50, 0]
    assert computed == [100, 1, 2, 20]


def test_a_turn_goes_on_from_the_row_of_the_last_one():
    """The new tokens of a turn are not computed again, but for the last."""
    scheduler = SlotScheduler(make_engine("llama", 2))
    [(answer, _)] = served(scheduler, [PROMPT])

    [(_, cached)] = served(scheduler, [[*PROMPT, *answer, 1, 2, 3]])

    assert cached == 100 + len(answer) - 1


def test_prompts_of_one_step_wait_for_the_first_of_them(reference):
    """They are computed in a second pass of the same step, all rows at once."""
    engine = make_engine("llama", 4)
    requests = [greedy_request(n, [*PROMPT, n, n, n], 6) for n in range(4)]
    known = [Known(r, generate_alone(reference.model("llama"), r)) for r in requests]
    passes = []
    prefill = engine.prefill

    def record(chunks):
        passes.append([(chunk.start, chunk.end) for chunk in chunks])
        return prefill(chunks)

    engine.prefill = record
    scheduler = SlotScheduler(engine)
    for request in requests:
        scheduler.add_request(request)
    outputs = scheduler.step()
    while scheduler.has_unfinished():
        outputs += scheduler.step()

    assert passes == [[(0, 103)], [(100, 103)] * 3]
    got = {
        r.request_id: tuple(
            token
            for output in outputs
            if output.request_id == r.request_id
            for token in output.token_ids
        )
        for r in requests
    }
    assert_same_tokens(reference.model("llama"), known, got, near_tie=NEAR_TIE)


def test_without_prefix_caching_nothing_is_taken_over():
    engine = make_engine("llama", 2, enable_prefix_caching=False)

    results = served(SlotScheduler(engine), [PROMPT, PROMPT])

    assert [cached for _, cached in results] == [0, 0]
    assert engine.shortest_prefix is None


def test_a_prompt_whose_logprobs_are_asked_for_is_computed_whole():
    params = SamplingParams(temperature=0, max_tokens=None, prompt_logprobs=1)
    scheduler = SlotScheduler(make_engine("llama", 2))

    [(_, cached)] = served(scheduler, [PROMPT])
    [(_, asked)] = served(scheduler, [PROMPT], params=params)
    [(_, later)] = served(scheduler, [PROMPT])

    assert (cached, asked, later) == (0, 0, 99)


def test_a_row_that_failed_is_not_taken_over():
    engine = make_engine("llama", 2)
    choose = engine._sampler.choose
    scheduler = SlotScheduler(engine)
    engine._sampler.choose = lambda logits, slots, *, best=None: choose(
        logits * torch.nan, slots
    )
    failed = served(scheduler, [PROMPT])
    engine._sampler.choose = choose

    assert failed == [((), 0)]
    assert [cached for _, cached in served(scheduler, [PROMPT, PROMPT])] == [0, 99]


def test_a_copy_that_is_too_short_would_show(monkeypatch):
    """Without the copies, the tests above fail."""
    engine = make_engine("llama", 3)
    copy = engine._cache.copy
    monkeypatch.setattr(
        engine._cache, "copy", lambda source, targets, length: copy(source, targets, 0)
    )
    requests = conversations("llama")
    expected = serve(make_engine("llama", 3), requests)

    assert serve(engine, requests) != expected


@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_families_take_over_nothing(family, caplog):
    reason = "takes over no prefixes: its layers keep the state"
    with caplog.at_level(logging.WARNING, logger="unillm"):
        assert make_engine(family, 2).shortest_prefix is None
        assert reason not in caplog.text
        make_engine(family, 2, enable_prefix_caching=True)

    assert reason in caplog.text


def test_kept_prefixes_take_no_memory_besides_the_rows():
    engine = TransformersSlotEngine(make_model("llama"), num_slots=3, max_model_len=200)
    before = [tensor.data_ptr() for tensor in engine._cache.tensors]

    served(SlotScheduler(engine), [PROMPT[start:] for start in range(0, 60, 5)])

    assert [tensor.data_ptr() for tensor in engine._cache.tensors] == before
    assert [row.is_live for row in engine._rows.all] == [False] * 3
    assert all(row.length for row in engine._rows.all)


def test_out_of_memory_counts_the_kept_prefixes(monkeypatch):
    engine = make_engine("llama", 3)
    scheduler = SlotScheduler(engine)
    served(scheduler, [PROMPT])

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(engine._model, "forward", fail)
    with pytest.raises(
        EngineOutOfMemoryError, match=r"A prefill of 5 tokens .*keep 103 tokens of pre"
    ):
        served(scheduler, [[9] * 5])


def test_rows_swap_all_that_they_hold():
    engine = make_engine("llama", 3)
    served(SlotScheduler(engine), [PROMPT[:30], PROMPT[40:]])
    cache = engine._cache
    before = [tensor.clone() for tensor in cache.tensors]

    cache.swap([0], [2])

    for tensor, old in zip(cache.tensors, before, strict=True):
        torch.testing.assert_close(tensor, old[[2, 1, 0]], equal_nan=True)
