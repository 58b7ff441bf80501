# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Job

from unillm.scheduling.queue import WaitingQueue


def request(number: int, priority: int = 0):
    return Job(number, priority=priority).request


def test_priority_then_arrival_decides():
    queue = WaitingQueue()
    for each in (request(0), request(1, -2), request(2), request(3, 7)):
        queue.push(each)

    assert [queue.pop().request_id for _ in range(4)] == ["r1", "r0", "r2", "r3"]


def test_an_empty_queue_has_no_next_request():
    assert WaitingQueue().peek() is None
    with pytest.raises(IndexError, match=r"^the queue is empty$"):
        WaitingQueue().pop()


def test_a_removed_request_is_never_next():
    queue = WaitingQueue()
    queue.push(request(0))
    queue.push(request(1))

    assert queue.remove("r0").request_id == "r0"
    assert queue.remove("r0") is None
    assert queue.peek().request_id == "r1"


def test_removed_requests_leave_the_heap_soon():
    """The waiting requests bound the heap, however many requests come and go."""
    queue = WaitingQueue()
    for number in range(100):
        queue.push(request(number))

    for number in range(99):
        queue.remove(f"r{number}")
        assert len(queue._heap) <= 2 * len(queue) + 8

    assert [each.request_id for each in queue] == ["r99"]
    assert queue.pop().request_id == "r99"


def test_an_id_that_returns_has_its_new_priority():
    queue = WaitingQueue()
    queue.push(request(0, priority=-5))
    queue.remove("r0")
    queue.push(attrs.evolve(request(0), arrival=9, priority=5))
    queue.push(request(1))

    assert [queue.pop().request_id for _ in range(2)] == ["r1", "r0"]


@pytest.mark.property
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=60),
    st.integers(0, 70),
)
def test_the_order_is_that_of_a_sorted_list(entries, count):
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
    first = [f"r{n}" for _, n in sorted(kept)[:count]]
    assert [each.request_id for each in queue.first(count)] == first
    assert [f"r{n}" for _, n in sorted(kept)] == [
        queue.pop().request_id for _ in range(len(kept))
    ]
