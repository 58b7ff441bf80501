# SPDX-License-Identifier: Apache-2.0

"""`AdapterGate`: which request may start beside the adapters of the running ones."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from ..engines.base import EngineRequest
from ..lora import LoRARequest
from .queue import WaitingQueue

OVERTAKES_PER_SLOT = 16
"""Requests, for each slot, that may overtake one whose adapter does not fit yet. After
that no request starts before it."""


class AdapterGate:
    """Takes the most urgent request whose adapter fits out of the queue.

    Args:
        max_loras: Different adapters that running requests may have; `None` for any
            number.
        num_slots: Slots of the engine; they scale the number of overtakes.
    """

    def __init__(self, max_loras: int | None, *, num_slots: int) -> None:
        self._max_loras = max_loras
        self._max_overtakes = OVERTAKES_PER_SLOT * num_slots
        self._overtakes = 0
        self._held_back: list[EngineRequest] = []

    def take(
        self, waiting: WaitingQueue, adapters: AbstractSet[LoRARequest | None]
    ) -> EngineRequest | None:
        """Remove and return the next request that may start; `None` if none may.

        The gate holds back the requests before it, until `put_back`.

        Args:
            waiting: The queue.
            adapters: The adapters of the running requests; `None` counts for nothing.
        """
        while waiting and len(self._held_back) < self._max_overtakes:
            if self._held_back and self._overtakes >= self._max_overtakes:
                return None
            request = waiting.pop()
            if self._fits(request.lora_request, adapters):
                self._overtakes = self._overtakes + 1 if self._held_back else 0
                return request
            self._held_back.append(request)
        return None

    def put_back(self, waiting: WaitingQueue) -> None:
        """Return the requests that the gate holds back to the queue."""
        for request in self._held_back:
            waiting.push(request)
        self._held_back.clear()

    def _fits(
        self, adapter: LoRARequest | None, adapters: AbstractSet[LoRARequest | None]
    ) -> bool:
        return (
            adapter is None
            or self._max_loras is None
            or adapter in adapters
            or len(adapters - {None}) < self._max_loras
        )
