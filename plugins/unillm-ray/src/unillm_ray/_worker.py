# SPDX-License-Identifier: Apache-2.0

"""`RayWorker`: answers the lines of a batch job on the actors of a Ray cluster."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import ActorPool

from unillm.errors import EngineDeadError
from unillm.jobs import Answer, Line, LocalWorker

from ._cluster import connect
from ._deaths import MAX_RESTARTS
from ._lines import LineAnswerer
from ._placement import CALLS, Resources, num_seqs_of, placement_of


class RayWorker:
    """A `unillm.jobs.Worker`: pass it to `unillm.run_batch` in place of a model.

    The files of the job are read and written where `run_batch` is called; the actors
    need the model alone.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``; each machine finds
            it under this name.
        address: Of the cluster; "auto" for that of this machine, "local" for a new one.
            Where Ray is connected already, it stays so.
        num_replicas: Actors, each with an engine.
        resources: Of one actor, by Ray's names; one CPU by default. A list has one
            entry for each process of an engine that spans machines.
        settings: Of the answers, as for `LocalWorker`.
        served_model_name: As for `LocalWorker`.
        lora_modules: As for `LocalWorker`.
        options: Further arguments of `unillm.Generator`.

    Raises:
        ConfigError: *resources* are empty.
    """

    def __init__(
        self,
        model: str,
        *,
        address: str = "auto",
        num_replicas: int = 1,
        resources: Resources | None = None,
        settings: Any = None,
        served_model_name: Sequence[str] = (),
        lora_modules: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if lora_modules:
            options.setdefault("enable_lora", True)
        self._address = address
        self._placement = placement_of(resources)
        self._num_replicas = num_replicas
        self._answering: dict[str, Any] = {
            "settings": settings,
            "served_model_name": served_model_name,
            "lora_modules": lora_modules,
        }
        self._model, self._options = model, options
        # Together the calls of an actor have twice the lines that its engine has rows.
        self._group = math.ceil(2 * num_seqs_of(options) / CALLS)
        self._waiting: list[Line] = []
        self._actors: list[Any] = []
        self._groups: list[Any] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of `LocalWorker` on a machine of the cluster."""
        connect(self._address)
        make = functools.partial(
            LocalWorker, self._model, **self._answering, **self._options
        )
        task = ray.remote(lambda: dict(make().identity))
        found: dict[str, Any] = ray.get(
            task.options(**self._placement.task_options()).remote()
        )
        return found

    @property
    def capacity(self) -> int:
        """Lines that fill all calls, and as many that wait for one."""
        return 2 * self._num_replicas * CALLS * self._group

    def open(self) -> None:
        """Load the model in each actor.

        Raises:
            EngineDeadError: An actor could not be started.
        """
        connect(self._address)
        kind = ray.remote(LineAnswerer)
        for _ in range(self._num_replicas):
            placed = self._placement.actor_options()
            actor = kind.options(
                max_concurrency=CALLS,
                max_restarts=MAX_RESTARTS,
                max_task_retries=-1,
                **placed,
            ).remote(self._model, self._answering, self._options)
            self._actors.append(actor)
            if self._placement.bundles:
                self._groups.append(placed["scheduling_strategy"].placement_group)
        try:
            ray.get([actor.ready.remote() for actor in self._actors])
        except RayError as error:
            raise _dead(error) from error
        # An actor is in the pool once for each of its calls.
        self._pool = ActorPool(self._actors * CALLS)

    def submit(self, line: Line) -> None:
        """Put a line into the next group."""
        self._waiting.append(line)
        if len(self._waiting) >= self._group:
            self._send()

    def answers(self, timeout_s: float | None) -> list[Answer]:
        """Return the answers of the groups that have ended.

        Raises:
            EngineDeadError: An actor died more often than it is started anew.
        """
        if timeout_s != 0:
            self._send()  # the caller waits for lines of a group that is not full
        found = self._ended(timeout_s)
        while more := self._ended(0):
            found += more
        return found

    def stats(self) -> Mapping[str, Any]:
        """Return nothing: the engines count in their own processes."""
        return {}

    def close(self) -> None:
        """End the actors, and what they do."""
        self._waiting.clear()
        while self._actors:
            ray.kill(self._actors.pop())
        while self._groups:
            ray.util.remove_placement_group(self._groups.pop())

    def _ended(self, timeout_s: float | None) -> list[Answer]:
        """Return the answers of one group; none after the timeout."""
        if not self._pool.has_next():
            return []
        try:
            found: list[Answer] = self._pool.get_next_unordered(timeout_s)
        except TimeoutError:
            return []
        except RayError as error:
            raise _dead(error) from error
        return found

    def _send(self) -> None:
        if self._waiting:
            group, self._waiting = self._waiting, []
            self._pool.submit(lambda actor, lines: actor.answer.remote(lines), group)


def _dead(error: RayError) -> EngineDeadError:
    return EngineDeadError(
        f"An actor of Ray cannot answer any more: {error} What was finished is kept."
    )
