# SPDX-License-Identifier: Apache-2.0

"""`History`: the events of a simulated run.

An event is a tuple of a kind and plain values. The kinds:

==============  =======================================================================
``world``       the numbers of this world: a dict
``submit``      number of the request, its `Job` as a dict, time
``refuse``      number, name of the error: the driver refused it
``cancel``      number, time: its caller cancelled it
``end``         number, time, name of the error or ``""``, and for each completion its
                ids, text, finish reason and stop reason
``add``         id, priority, arrival: the driver added a completion to the engine
``abort``       id: the driver aborted it
``admit``       id, row: its prompt begins
``run``         ids of the rows of a run of a static batch
``release``     row: it lost its owner
``say``         id, token ids, finish reason, stop token id, error: an output
``step``        rows that decoded, requests that waited for a row, prompt tokens spent
``fault``       kind: the engine failed by plan
``epoch``       a new driver and engine replace the last ones
``rest``        sizes of the maps of driver and engine at the end of an epoch
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
    """Events in their order, and their digest."""

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
        """Append the events to a file, one JSON list a line."""
        with path.open("a", encoding="utf-8") as stream:
            for event in self._events:
                stream.write(json.dumps(event) + "\n")
