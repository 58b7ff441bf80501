# SPDX-License-Identifier: Apache-2.0

"""What is told while an engine is prepared, and how long that took before."""

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
"""For another process; in the backend's hands; hashed and written out; done."""

REPEAT_S = 30.0
"""How often `tell_news` says again what has not changed."""


class Progress(Protocol):
    """**Protocol:** how a backend tells where its build is. The store provides it."""

    def __call__(self, message: str, *, fraction: float | None = None) -> None:
        """Tell what is under way.

        Args:
            message: A few words, such as ``"layer 3 of 32"``.
            fraction: How much of the whole is done; `None` where nobody knows.
        """


@attrs.frozen(kw_only=True)
class PastBuild:
    """A build that is on record."""

    seconds: float
    built_at: dt.datetime
    total_bytes: int
    """What it takes on the disk."""
    same: bool
    """Whether it was of the same spec. If not, of the same model and backend with
    other numbers, so that it is only a hint."""

    def __str__(self) -> str:
        what = "the same build" if self.same else "a build of this model"
        return f"{what} took {duration(self.seconds)} on {self.built_at:%Y-%m-%d}"


@attrs.frozen(kw_only=True)
class BuildStatus:
    """Where a build is."""

    spec: BuildSpec
    stage: Stage
    message: str = ""
    """The backend's own words."""
    fraction: float | None = None
    elapsed_s: float = 0.0
    """Of the stage."""
    past: PastBuild | None = None
    """How long it took before; `None` if nothing is known."""
    owner: Owner | None = None
    """Who builds, while waiting; `None` if it has not said so yet."""

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


def tell_news(tell: Callable[[str], None]) -> Listener:
    """Return a listener that tells what is new, and the same every `REPEAT_S`."""
    last: BuildStatus | None = None

    def listen(status: BuildStatus) -> None:
        nonlocal last
        same = last is not None and (
            (status.stage, status.message, status.owner)
            == (last.stage, last.message, last.owner)
        )
        if not same or status.elapsed_s - last.elapsed_s >= REPEAT_S:  # type: ignore[union-attr]
            last = status
            tell(f"{status}.")

    return listen


def past_build(spec: BuildSpec, manifests: Iterable[Manifest]) -> PastBuild | None:
    """Return the build on record that says most about one of *spec*.

    That is the latest of the same spec; else the latest of the same files of the model
    on the same backend, whatever else was different.
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
    """Say a time in words for a person: ``"0.8 s"``, ``"41 s"``, ``"2 min 12 s"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
