# SPDX-License-Identifier: Apache-2.0

"""Which requests may take over what a row holds."""

from __future__ import annotations

from array import array

import attrs
import pytest

from unillm import LoRARequest, SamplingParams
from unillm.engines.base import EngineRequest
from unillm.scheduling.prefixes import common_length
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.scripted import ScriptedSlotEngine

PROMPT = tuple(range(40))
SQL, CHESS = LoRARequest("sql", 1, "/sql"), LoRARequest("chess", 2, "/chess")


def request(number: int, **fields) -> EngineRequest:
    return EngineRequest(
        request_id=f"r{number}",
        prompt_token_ids=PROMPT,
        params=SamplingParams(temperature=0),
        stop_token_ids=frozenset(),
        max_new_tokens=3,
        seed=1,
        arrival=number,
        **fields,
    )


def cached(*requests: EngineRequest, together: bool) -> list[int]:
    """Serve requests at once or one by one; return the cached tokens of each."""
    engine = ScriptedSlotEngine(lambda _, n: 100 + n, num_slots=4, shortest_prefix=8)
    scheduler = SlotScheduler(engine)
    counts = {}
    for part in [requests] if together else [[each] for each in requests]:
        for each in part:
            scheduler.add_request(each)
        while scheduler.has_unfinished():
            counts |= {o.request_id: o.num_cached_tokens for o in scheduler.step()}
    return [counts[each.request_id] for each in requests]


@pytest.mark.parametrize("together", [False, True])
def test_requests_with_the_same_adapter_and_salt_share_a_prefix(together):
    own = {"lora_request": SQL, "cache_salt": "a"}
    same = attrs.evolve(SQL)

    assert cached(request(0), request(1), together=together) == [0, 39]
    assert cached(
        request(0, **own),
        request(1, **{**own, "lora_request": same}),
        together=together,
    ) == [0, 39]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        ({}, {"cache_salt": "a"}),
        ({"cache_salt": "a"}, {}),
        ({"cache_salt": "a"}, {"cache_salt": "b"}),
        ({}, {"lora_request": SQL}),
        ({"lora_request": SQL}, {}),
        ({"lora_request": SQL}, {"lora_request": CHESS}),
    ],
)
def test_requests_with_another_adapter_or_salt_share_none(fields, together):
    one, other = (request(number, **own) for number, own in enumerate(fields))

    assert cached(one, other, together=together) == [0, 0]


@pytest.mark.parametrize("shared", [0, 1, 2, 7, 8, 9])
def test_the_common_length_is_that_of_equal_ids(shared):
    one, other = array("q", range(10)), array("q", range(10))
    if shared < 9:
        other[shared] = -1

    assert common_length(one, other, 9) == shared
