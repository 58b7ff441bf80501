# SPDX-License-Identifier: Apache-2.0

"""Steps that start before the tokens of the last one are read: the tokens are the same.

On CUDA an engine starts all steps so; these tests make one on a CPU do the same.
"""

from __future__ import annotations

import random

import attrs
import pytest
from embedded.serving import (
    Known,
    PoisonedEngine,
    assert_same_tokens,
    conversations,
    generate_alone,
    serve,
    serve_known,
)
from embedded.tiny_models import CORE, make_model, slots_for

from unillm import SamplingParams
from unillm.embedded.engine import TransformersSlotEngine
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.randomised import run_random


def ahead(family: str, num_slots: int) -> PoisonedEngine:
    engine = PoisonedEngine(make_model(family), num_slots=num_slots, max_model_len=224)
    engine.starts_ahead = True
    return engine


def recorded(engine: PoisonedEngine) -> list[str]:
    """Return the list in which starts and reads will be noted."""
    events: list[str] = []
    start = engine.start

    def noted(chunks, slots):
        events.append("start")
        results = start(chunks, slots)
        return lambda: events.append("read") or results()

    engine.start = noted
    return events


@pytest.mark.parametrize("budget", [2048, 40], ids=["whole", "in chunks"])
@pytest.mark.parametrize("family", CORE)
def test_tokens_are_those_of_generate(reference, family, budget):
    engine = ahead(family, slots_for(family, 5))

    serve_known(engine, reference, family, 20, budget=budget)


def test_tokens_with_taken_prefixes_are_those_of_generate(reference):
    requests = conversations("llama")
    model = reference.model("llama")
    known = [Known(each, generate_alone(model, each)) for each in requests]
    scheduler = SlotScheduler(ahead("llama", 4), max_num_batched_tokens=40)

    got = serve(scheduler._engine, requests, scheduler=scheduler)

    assert_same_tokens(model, known, got)
    assert scheduler.counters.cached_tokens > 100


def test_a_step_starts_before_the_tokens_of_the_last_one_are_read(reference):
    engine = ahead("llama", 1)
    [known] = reference.known("llama", 1)
    request = attrs.evolve(known.request, max_new_tokens=6)
    events = recorded(engine)

    serve(engine, [request])

    assert events == ["start", *["start", "read"] * 5, "read"]


def test_a_request_with_bad_words_of_two_tokens_is_read_first(reference):
    [known] = reference.known("llama", 1)
    asked = attrs.evolve(
        known.request,
        params=SamplingParams(temperature=0),
        max_new_tokens=8,
        bad_words_token_ids=((5, 6),),
    )
    engine = ahead("llama", 2)
    events = recorded(engine)

    serve(engine, [asked])

    assert events == ["start", "read"] * 8


def test_aborted_requests_leave_their_slots_to_others(reference):
    known = reference.known("llama", 20)
    engine = ahead("llama", 3)
    scheduler = SlotScheduler(engine)
    rng = random.Random(3)
    tokens = {each.request.request_id: () for each in known}
    aborted = set()
    for each in known:
        scheduler.add_request(each.request)
    while scheduler.has_unfinished():
        for output in scheduler.step():
            tokens[output.request_id] += output.token_ids
        scheduler.check()
        if rng.random() < 0.1:
            [name] = rng.sample(sorted(tokens), 1)
            scheduler.abort([name])
            aborted.add(name)

    assert aborted
    rest = [each for each in known if each.request.request_id not in aborted]
    assert_same_tokens(reference.model("llama"), rest, tokens)


def test_random_requests_of_all_fields_conform(monkeypatch):
    monkeypatch.setattr(
        TransformersSlotEngine,
        "starts_ahead",
        property(lambda _: True, lambda *_: None),
    )

    report = run_random("transformers", requests=60, seed=4)

    assert report.conforms, report.fault
