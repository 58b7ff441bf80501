# SPDX-License-Identifier: Apache-2.0

"""Resources of one replica in Ray's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from unillm.errors import ConfigError

Resources = Mapping[str, float] | Sequence[Mapping[str, float]]
"""Amounts by Ray's names of resources; or, for an engine that spans machines, a list
with the amounts of each of its processes."""

_NAMED = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""Resources that have an argument of their own in Ray."""


@attrs.frozen
class Placement:
    """Where one replica runs."""

    options: Mapping[str, Any]
    """Options of its actor."""
    bundles: Sequence[Mapping[str, float]] = ()
    """Bundles of its placement group, the first of which has the actor; or none."""


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
    given = dict(resources)
    options: dict[str, Any] = {
        argument: given.pop(name) for name, argument in _NAMED.items() if name in given
    }
    return Placement({**options, "resources": given} if given else options)
