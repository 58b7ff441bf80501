# SPDX-License-Identifier: Apache-2.0

"""Reports on a build for the caller that waits for it, and the time of past builds."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import attrs

from .key import BuildSpec
from .lock import Owner
from .manifest import Manifest

Stage = Literal["waiting", "building", "sealing", "ready"]
"""Another process builds; the backend builds; the store hashes and syncs; done."""

REPEAT_S = 30.0
"""Time after which `report_changes` repeats an unchanged status."""


class Progress(Protocol):
    """**Protocol:** A function of the store by which a backend reports on its build."""

    def __call__(self, message: str, *, fraction: float | None = None) -> None:
        """Report the current work.

        Args:
            message: A few words, such as ``"layer 3 of 32"``.
            fraction: Part of the build that is done; `None` if unknown.
        """


@attrs.frozen(kw_only=True)
class PastBuild:
    """A build of which the manifest exists."""

    seconds: float
    built_at: dt.datetime
    total_bytes: int
    """Size on the disk."""
    same: bool
    """Whether it had the same spec. If not, it had the same model and backend with
    other numbers, and its time is only a hint."""

    def __str__(self) -> str:
        what = "the same build" if self.same else "a build of this model"
        return f"{what} took {duration(self.seconds)} on {self.built_at:%Y-%m-%d}"


@attrs.frozen(kw_only=True)
class BuildStatus:
    """Status of a build."""

    spec: BuildSpec
    stage: Stage
    message: str = ""
    """Message of the backend."""
    fraction: float | None = None
    elapsed_s: float = 0.0
    """Time since the stage began."""
    past: PastBuild | None = None
    """The last such build; `None` if there was none."""
    owner: Owner | None = None
    """While waiting, the process that builds; `None` before it signs its lock."""

    def __str__(self) -> str:
        what = f"the {self.spec.backend} engine for {self.spec.model}"
        before = f" ({self.past})" if self.past else ""
        if self.stage == "waiting":
            if self.owner is None:
                return f"Waiting for another process to build {what}{before}"
            since = duration(time.time() - self.owner.since)
            return f"Waiting for {self.owner}, building {what} for {since}{before}"
        if self.stage == "building":
            share = "" if self.fraction is None else f"{100 * self.fraction:.0f} %"
            news = ", ".join(filter(None, (share, self.message)))
            return f"Building {what}: {news}" if news else f"Building {what}{before}"
        if self.stage == "sealing":
            return f"Hashing and writing out {what}"
        return f"{what[0].upper()}{what[1:]} is ready"


Listener = Callable[[BuildStatus], None]


def report_changes(report: Callable[[str], None]) -> Listener:
    """Return a listener that reports each change, and repeats it every `REPEAT_S`."""
    last: BuildStatus | None = None

    def listen(status: BuildStatus) -> None:
        nonlocal last
        if (
            last is None
            or (status.stage, status.message, status.owner)
            != (last.stage, last.message, last.owner)
            or status.elapsed_s - last.elapsed_s >= REPEAT_S
        ):
            last = status
            report(f"{status}.")

    return listen


def past_build(spec: BuildSpec, manifests: Iterable[Manifest]) -> PastBuild | None:
    """Return the latest build of *spec*, or else of the same model and backend.

    The model is the same if its files are.
    """
    alike = [
        manifest
        for manifest in manifests
        if (manifest.spec.backend, manifest.spec.model_files)
        == (spec.backend, spec.model_files)
    ]
    if not alike:
        return None
    best = max(alike, key=lambda each: (each.spec.key == spec.key, each.built_at))
    return PastBuild(
        seconds=best.build_seconds,
        built_at=best.built_at,
        total_bytes=best.total_bytes,
        same=best.spec.key == spec.key,
    )


def duration(seconds: float) -> str:
    """Format a time: ``"0.8 s"``, ``"41 s"``, ``"2 min 12 s"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
