# SPDX-License-Identifier: Apache-2.0

"""Plans: what a request for an engine would build, and its cost in time and memory.

A plan builds and loads nothing, needs no engine, and hashes only the model's files.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import attrs

from ..model import fitting
from ..model.memory import Limits, MemoryEstimate, MemoryNeeds
from .folder import ArtifactFolder, Entry
from .key import BuildSpec, Difference
from .progress import PastBuild, past_build


class Outcome(enum.Enum):
    """Outcome of a request for an engine."""

    NOTHING_TO_BUILD = "nothing to build"
    """The backend loads the model as it is."""
    READY = "ready"
    """The cache has the engine."""
    COVERED = "covered"
    """The cache has an engine with larger limits, which serves."""
    BUILD = "build"
    """The backend builds the engine."""
    NOT_INSTALLED = "not installed"
    """The plugin of the backend is missing, and with it what it would build."""


@attrs.frozen(kw_only=True)
class MemoryPlan:
    """Memory of an engine, and the limits that fit."""

    limits: Limits
    needs: MemoryNeeds
    available_bytes: int | None = None
    """Memory of the device; `None` if unknown, which leaves the other fields open."""
    smallest: Limits = fitting.SMALLEST
    """The smallest limits that the engine can be built with, each alone."""

    @property
    def estimate(self) -> MemoryEstimate:
        """Memory by part, with all requests at full length."""
        return self.needs.estimate(self.limits)

    @property
    def fits(self) -> bool | None:
        """Whether all parts together fit; `None` if the memory is unknown."""
        if self.available_bytes is None:
            return None
        return self.estimate.total_bytes <= self.available_bytes

    @property
    def largest(self) -> Mapping[str, int]:
        """The largest value of each limit that fits while the others stay.

        Without the limits of which no value fits; empty if the memory is unknown.
        """
        if self.available_bytes is None:
            return {}
        return fitting.largest_limits(
            self.needs, self.limits, self.available_bytes, self.smallest
        )

    @property
    def largest_together(self) -> Limits | None:
        """The limits lowered by one common share until they fit; `None` if none fit."""
        if self.available_bytes is None:
            return None
        # One limit may be bound to another one, which is lowered too.
        return fitting.largest_together(self.needs, self.limits, self.available_bytes)


@attrs.frozen(kw_only=True)
class EnginePlan:
    """The plan of one engine."""

    backend: str
    model: str
    spec: BuildSpec | None
    """`None` if the backend builds nothing."""
    outcome: Outcome
    used: Entry | None = None
    """The engine in the cache that serves."""
    nearest: Entry | None = None
    """If none serves, the engine in the cache that differs least."""
    differences: tuple[Difference, ...] = ()
    """Differences between `used` or `nearest` and the spec."""
    past: PastBuild | None = None
    """The same build, or a similar one, in the past."""
    memory: MemoryPlan | None = None
    memory_refusal: str = ""
    """Reason why `memory` is `None`."""


def make_plan(spec: BuildSpec, folder: ArtifactFolder) -> EnginePlan:
    """Return the plan of a spec, without its memory.

    Fields of the spec that are unknown on this machine are not compared.
    """
    plan = EnginePlan(
        backend=spec.backend,
        model=spec.model,
        spec=spec,
        outcome=Outcome.BUILD,
        past=past_build(spec, folder.manifests()),
    )
    for used in folder.serving(spec):
        differences = _differences(used, spec)
        outcome = Outcome.COVERED if differences else Outcome.READY
        return attrs.evolve(plan, outcome=outcome, used=used, differences=differences)
    if nearest := _nearest(spec, folder.entries()):
        return attrs.evolve(
            plan, nearest=nearest, differences=_differences(nearest, spec)
        )
    return plan


def _nearest(spec: BuildSpec, entries: Iterable[Entry]) -> Entry | None:
    """Return the engine of this model and backend that differs least, or the latest."""

    def distance(entry: Entry) -> tuple[int, float]:
        assert entry.manifest is not None
        age = -entry.manifest.built_at.timestamp()
        return len(_differences(entry, spec)), age

    similar = [entry for entry in entries if _is_similar(entry, spec)]
    return min(similar, key=distance, default=None)


def _is_similar(entry: Entry, spec: BuildSpec) -> bool:
    """Whether an entry has the same backend, and the model by its name or files."""
    if entry.manifest is None:
        return False
    other = entry.manifest.spec
    return other.backend == spec.backend and (
        other.model == spec.model or other.model_files == spec.model_files
    )


def _differences(entry: Entry, spec: BuildSpec) -> tuple[Difference, ...]:
    assert entry.manifest is not None
    return tuple(entry.manifest.spec.differences(spec))
