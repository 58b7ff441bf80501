# SPDX-License-Identifier: Apache-2.0

"""Resources of one replica in Ray's words, and how much runs in it at the same time."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from unillm.errors import ConfigError

Resources = Mapping[str, float] | Sequence[Mapping[str, float]]
"""Amounts by Ray's names of resources; or, for an engine that spans machines, a list
with the amounts of each of its processes."""

USUAL_NUM_SEQS = 256
"""Rows of an engine whose `max_num_seqs` is not given; more of them only wait."""

CALLS = 8
"""Batches in one actor at the same time."""

_NAMED = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""Resources that have an argument of their own in Ray."""


def num_seqs_of(options: Mapping[str, Any]) -> int:
    """Return the rows of an engine with these arguments of `Generator`."""
    return options.get("max_num_seqs") or USUAL_NUM_SEQS


@attrs.frozen
class Placement:
    """Where one replica runs."""

    resources: Mapping[str, Any]
    """Ray's arguments for the resources of its process."""
    bundles: Sequence[Mapping[str, float]] = ()
    """Bundles of its placement group, the first of which has the process; or none."""

    def actor_options(self) -> dict[str, Any]:
        """Return the options of one actor, with a placement group of its own."""
        return {"scheduling_strategy": "SPREAD", **self.resources, **self.strategy()}

    def task_options(self) -> dict[str, Any]:
        """Return the options of a task that looks where the engine would run."""
        return _arguments(self.bundles[0]) if self.bundles else dict(self.resources)

    def strategy(self) -> dict[str, Any]:
        """Reserve a placement group for one actor, if there are bundles."""
        if not self.bundles:
            return {}
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = ray.util.placement_group(list(self.bundles), strategy="PACK")
        strategy = PlacementGroupSchedulingStrategy(
            group, placement_group_capture_child_tasks=True
        )
        return {"scheduling_strategy": strategy}

    def strategies(self, count: int) -> Callable[[], dict[str, Any]]:
        """Return a function that returns the strategy of one actor after the other.

        Ray Data also calls it to look at the result, so the call after the last of
        *count* actors begins anew: no call may reserve what no actor uses. The groups
        are removed with the function, which the dataset has, or else they would hold
        their resources until the program ends.
        """
        made: list[dict[str, Any]] = []
        calls = itertools.count()

        def strategy() -> dict[str, Any]:
            number = next(calls) % count
            if number == len(made):
                made.append(self.strategy())
            return made[number]

        weakref.finalize(strategy, _remove_groups, made).atexit = False
        return strategy


def placement_of(resources: Resources | None) -> Placement:
    """Return the placement of a replica with *resources*; by default one CPU.

    Raises:
        ConfigError: *resources* are empty.
    """
    if resources is None:
        return Placement({"num_cpus": 1})
    if not resources:
        raise ConfigError(
            f"resources is empty: {resources!r}. Pass a mapping such as {{'GPU': 1}}, "
            "or a list of them, one for each process of an engine that spans machines."
        )
    if not isinstance(resources, Mapping):
        return Placement({"num_cpus": 0}, [dict(bundle) for bundle in resources])
    return Placement(_arguments(resources))


def _remove_groups(strategies: list[dict[str, Any]]) -> None:
    import ray

    while strategies:
        strategy = strategies.pop()["scheduling_strategy"]
        if ray.is_initialized():
            ray.util.remove_placement_group(strategy.placement_group)


def _arguments(resources: Mapping[str, float]) -> dict[str, Any]:
    """Return Ray's arguments for resources by name."""
    given = dict(resources)
    arguments: dict[str, Any] = {
        argument: given.pop(name) for name, argument in _NAMED.items() if name in given
    }
    return {**arguments, "resources": given} if given else arguments
