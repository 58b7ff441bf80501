# SPDX-License-Identifier: Apache-2.0

"""What happened in a simulated run, event by event.

An event is a tuple of a kind and plain values. The kinds:

==============  =======================================================================
``world``       the numbers of this world: a dict
``submit``      number of the request, its `Job` as a dict, time
``refuse``      number, name of the error: it was never accepted
``cancel``      number, time: its caller ended it
``end``         number, time, name of the error or ``""``, and for each completion its
                ids, text, finish reason and stop reason
``add``         id: the engine was given a completion to compute
``abort``       id: the engine was told to forget it
``admit``       id, row: its prompt begins
``run``         ids of the rows of a run of a static batch
``release``     row: it has no owner any more
``say``         id, ids, finish reason, stop id, error: what the engine told
``step``        rows that decoded, requests that waited for a row, prompt tokens spent
``fault``       kind: the engine failed on purpose
``epoch``       a new driver and engine: the last ones are over
``rest``        what is left in the maps of driver and engine at the end of an epoch
==============  =======================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Event = tuple[Any, ...]


class History:
    """Events in their order, and a digest that identifies them."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._digest = hashlib.sha256()

    def note(self, kind: str, *facts: Any) -> None:
        """Add an event."""
        event = (kind, *facts)
        self._events.append(event)
        self._digest.update(repr(event).encode())

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def digest(self) -> str:
        """SHA-256 of all events, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, path: Path) -> None:
        """Append the events to a file, a JSON list a line."""
        with path.open("a", encoding="utf-8") as stream:
            for event in self._events:
                stream.write(json.dumps(event) + "\n")
