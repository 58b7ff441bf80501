# SPDX-License-Identifier: Apache-2.0

"""What would be built, why, how long it took last time, and what it takes of memory.

Nothing is built, loaded or hashed for a plan but the files of the model, and no engine
is needed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import attrs

from ..model.memory import Limits, MemoryEstimate, MemoryNeeds
from .folder import ArtifactFolder, Entry
from .key import BuildSpec, Difference
from .progress import PastBuild, past_build


class Verdict(enum.Enum):
    """What asking for the engine would come to."""

    NOTHING_TO_BUILD = "nothing to build"
    """The backend loads the model as it is."""
    READY = "ready"
    """It is in the cache."""
    COVERED = "covered"
    """One with larger limits is in the cache, and would be used."""
    BUILD = "build"
    """It would be built."""


@attrs.frozen(kw_only=True)
class MemoryPlan:
    """What the engine takes, and whether that fits."""

    limits: Limits
    needs: MemoryNeeds
    available_bytes: int | None = None
    """What there is; `None` if nobody said."""

    @property
    def estimate(self) -> MemoryEstimate:
        """By part, with all requests full."""
        return self.needs.estimate(self.limits)

    @property
    def fits(self) -> bool | None:
        """Whether all parts fit together; `None` if nobody said into what."""
        if self.available_bytes is None:
            return None
        return self.estimate.total_bytes <= self.available_bytes

    @property
    def largest(self) -> Mapping[str, int]:
        """The largest value of each limit that fits while the others stay.

        0 where none does; empty if nobody said into what.
        """
        if self.available_bytes is None:
            return {}
        return self.needs.largest(self.limits, self.available_bytes)

    @property
    def largest_together(self) -> Limits | None:
        """The limits, all lowered by the same share, that fit; `None` if none do."""
        if self.available_bytes is None:
            return None
        return self.needs.largest_together(self.limits, self.available_bytes)


@attrs.frozen(kw_only=True)
class EnginePlan:
    """What `make_plan` found."""

    backend: str
    model: str
    spec: BuildSpec | None
    """`None` if nothing has to be built."""
    verdict: Verdict
    used: Entry | None = None
    """What is in the cache and would be used."""
    nearest: Entry | None = None
    """The engine in the cache that differs least, if one would be built."""
    differences: tuple[Difference, ...] = ()
    """From `used` or `nearest` to what is asked."""
    past: PastBuild | None = None
    """How long it took before."""
    memory: MemoryPlan | None = None
    memory_refusal: str = ""
    """Why there is no estimate of the memory."""


def make_plan(spec: BuildSpec, folder: ArtifactFolder) -> EnginePlan:
    """Say what asking for an engine would come to. The memory is left out.

    What is unknown in the spec, because no engine or device is here, is taken to be as
    in the entry that it is compared with.
    """
    plan = EnginePlan(
        backend=spec.backend,
        model=spec.model,
        spec=spec,
        verdict=Verdict.BUILD,
        past=past_build(spec, folder.manifests()),
    )
    for used in folder.serving(spec):
        differences = _differences(used, spec)
        verdict = Verdict.COVERED if differences else Verdict.READY
        return attrs.evolve(plan, verdict=verdict, used=used, differences=differences)
    if nearest := _nearest(spec, folder.entries()):
        return attrs.evolve(
            plan, nearest=nearest, differences=_differences(nearest, spec)
        )
    return plan


def _nearest(spec: BuildSpec, entries: Iterable[Entry]) -> Entry | None:
    """Return the latest of the engines that differ least, of this model and backend."""

    def distance(entry: Entry) -> tuple[int, float]:
        assert entry.manifest is not None
        age = -entry.manifest.built_at.timestamp()
        return len(_differences(entry, spec)), age

    alike = [entry for entry in entries if entry.manifest and _alike(entry, spec)]
    return min(alike, key=distance, default=None)


def _alike(entry: Entry, spec: BuildSpec) -> bool:
    """Whether it is of the same backend and model, by its name or its files."""
    assert entry.manifest is not None
    other = entry.manifest.spec
    return other.backend == spec.backend and (
        other.model == spec.model or other.model_files == spec.model_files
    )


def _differences(entry: Entry, spec: BuildSpec) -> tuple[Difference, ...]:
    assert entry.manifest is not None
    return tuple(entry.manifest.spec.differences(spec))
