# SPDX-License-Identifier: Apache-2.0

"""`WaitingQueue`: the waiting requests, by priority and then by arrival."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from ..engines.base import EngineRequest


def shrink(values: dict[str, Any]) -> None:
    """Free the memory of an empty dict, which keeps its largest size otherwise."""
    if not values:
        values.clear()


class WaitingQueue:
    """A priority queue that also gives up any request by its id.

    A removed request's entry stays in the heap until it comes to the top, or until
    removed entries outnumber the live ones.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._requests: dict[str, EngineRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[EngineRequest]:
        return iter(self._requests.values())

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def push(self, request: EngineRequest) -> None:
        """Add a request behind those of its priority that arrived before it."""
        self._requests[request.request_id] = request
        heapq.heappush(
            self._heap, (request.priority, request.arrival, request.request_id)
        )

    def peek(self) -> EngineRequest | None:
        """Return the next request, or `None` if the queue is empty."""
        while self._heap:
            request = self._current(self._heap[0])
            if request is not None:
                return request
            heapq.heappop(self._heap)
        return None

    def pop(self) -> EngineRequest:
        """Remove and return the next request.

        Raises:
            IndexError: The queue is empty.
        """
        request = self.peek()
        if request is None:
            raise IndexError("the queue is empty")
        heapq.heappop(self._heap)
        del self._requests[request.request_id]
        shrink(self._requests)
        return request

    def first(self, count: int) -> list[EngineRequest]:
        """Return the next *count* requests in their order, without removing them.

        The time depends on *count*, and hardly on the length of the queue.
        """
        if count >= len(self._requests):
            return sorted(self, key=lambda each: (each.priority, each.arrival))
        self.peek()  # drops removed entries from the top
        found: list[EngineRequest] = []
        # An entry comes after its parent, so a second heap holds what may come next.
        frontier = [(entry, 0) for entry in self._heap[:1]]
        while frontier and len(found) < count:
            entry, index = heapq.heappop(frontier)
            request = self._current(entry)
            # A request that left and came back has two entries, side by side.
            if request is not None and (not found or found[-1] is not request):
                found.append(request)
            for child in range(2 * index + 1, min(2 * index + 3, len(self._heap))):
                heapq.heappush(frontier, (self._heap[child], child))
        return found

    def remove(self, request_id: str) -> EngineRequest | None:
        """Remove and return a request; `None` if the queue does not hold it."""
        request = self._requests.pop(request_id, None)
        shrink(self._requests)
        if len(self._heap) > 2 * len(self._requests) + 8:
            self._heap = [entry for entry in self._heap if self._current(entry)]
            heapq.heapify(self._heap)
        return request

    def _current(self, entry: tuple[int, int, str]) -> EngineRequest | None:
        """Return the live request of a heap entry; an id may return after a removal."""
        _, arrival, request_id = entry
        request = self._requests.get(request_id)
        return request if request and request.arrival == arrival else None
