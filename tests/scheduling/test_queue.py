# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Job

from unillm.scheduling.queue import WaitingQueue


def request(number: int, priority: int = 0):
    job = Job(number, 0, 1, 1, 1, priority, None)
    return job.request


def test_priority_then_arrival_decides():
    queue = WaitingQueue()
    for each in (request(0), request(1, -2), request(2), request(3, 7)):
        queue.push(each)

    assert [queue.pop().request_id for _ in range(4)] == ["r1", "r0", "r2", "r3"]


def test_an_empty_queue_has_nothing_to_pop():
    assert WaitingQueue().peek() is None
    with pytest.raises(IndexError, match=r"^the queue is empty$"):
        WaitingQueue().pop()


def test_a_removed_request_does_not_come_up():
    queue = WaitingQueue()
    queue.push(request(0))
    queue.push(request(1))

    assert queue.remove("r0").request_id == "r0"
    assert queue.remove("r0") is None
    assert queue.peek().request_id == "r1"


def test_what_was_removed_is_forgotten_soon():
    """However many come and go, what is kept of them is bounded by who waits."""
    queue = WaitingQueue()
    for number in range(100):
        queue.push(request(number))

    for number in range(99):
        queue.remove(f"r{number}")
        assert len(queue._heap) <= 2 * len(queue) + 8

    assert [each.request_id for each in queue] == ["r99"]
    assert queue.pop().request_id == "r99"


def test_an_id_that_comes_again_has_its_new_place():
    queue = WaitingQueue()
    queue.push(request(0, priority=-5))
    queue.remove("r0")
    queue.push(attrs.evolve(request(0), arrival=9, priority=5))
    queue.push(request(1))

    assert [queue.pop().request_id for _ in range(2)] == ["r1", "r0"]


@pytest.mark.property
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=60))
def test_the_order_is_that_of_a_sorted_list(entries):
    queue = WaitingQueue()
    for number, (priority, _) in enumerate(entries):
        queue.push(request(number, priority))
    kept = []
    for number, (priority, removed) in enumerate(entries):
        if removed:
            queue.remove(f"r{number}")
        else:
            kept.append((priority, number))

    assert len(kept) == len(queue)
    assert [f"r{n}" for _, n in sorted(kept)] == [
        queue.pop().request_id for _ in range(len(kept))
    ]
