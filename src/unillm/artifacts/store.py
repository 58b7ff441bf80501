# SPDX-License-Identifier: Apache-2.0

"""Prepared engines: built once, by one process, and whole at every load.

A process builds an entry in a folder of its own and renames it to its place when every
byte is on the disk. A killed process therefore leaves a whole entry or none. The store
checks an entry at each load, and replaces a damaged one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import logging
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from typing_extensions import Self

from ..distributions import VERSION
from ..errors import ConfigError, EngineBuildError, UnillmError
from ..phases import Report, phase
from .folder import CACHE_VARIABLE, ArtifactFolder
from .key import BuildSpec
from .lock import FileLock, Owner
from .manifest import (
    FILES,
    DamagedError,
    ForeignError,
    Manifest,
    StoredFile,
    sizes_of_files,
)
from .progress import (
    BuildStatus,
    Listener,
    Progress,
    Stage,
    past_build,
    report_changes,
)
from .records import sync_folder
from .upkeep import verify

log = logging.getLogger("unillm.artifacts")

Build = Callable[[BuildSpec, Path, Progress], None]
"""Type of `Backend.build`, which writes an engine for a spec into an empty folder."""

_ELSEWHERE = (
    "Build the engine where its library is installed and the device is present."
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Artifact:
    """A whole prepared engine, which `prune` keeps until this is closed.

    Attributes:
        path: Folder of its files, in which nothing may be changed or added.
        manifest: Its manifest.
    """

    def __init__(self, path: Path, manifest: Manifest, use: FileLock) -> None:
        self.path = path
        self.manifest = manifest
        self._use = use

    @property
    def spec(self) -> BuildSpec:
        """Spec of its build, which may have larger limits than the caller's."""
        return self.manifest.spec

    def close(self) -> None:
        """Allow `prune` to delete it; the second call does nothing."""
        self._use.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._use.held:
            warnings.warn(
                f"{self.path} was not closed",
                ResourceWarning,
                stacklevel=1,  # the interpreter calls this, not a caller's line
                source=self,
            )
            self.close()


class ArtifactStore:
    """The prepared engines of a cache folder, for any number of processes at a time.

    Args:
        root: The cache folder; `None` for the one that the environment names.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.folder = ArtifactFolder(root)

    def obtain(
        self, spec: BuildSpec, build: Build, *, listener: Listener | None = None
    ) -> Artifact:
        """Return an engine for *spec* from the cache, or build one.

        An engine with larger limits serves too. While another process builds the same
        engine, this call waits for it. A damaged engine is set aside and built again.

        Args:
            spec: The spec of the engine.
            build: Called in this thread if the cache has no engine that serves.
            listener: Called in this thread with each status; `None` logs it.

        Raises:
            EngineBuildError: The build failed, in this process or in the one that this
                call waited for. Nothing is left of it.
            ConfigError: The spec has unknown fields.
            UnillmError: `build` raised it.
        """
        if spec.unknown:
            raise ConfigError(
                f"The backend {spec.backend!r} cannot prepare {spec.model!r} on this "
                f"machine (unknown: {' and '.join(spec.unknown)}). "
                + (spec.remedy or _ELSEWHERE)
            )
        listener = listener or report_changes(log.info)
        with _explained(spec, self.folder):
            artifact = self._open_best(spec, alone=False)
        if artifact is not None:
            return artifact
        with self._alone(spec, listener), _explained(spec, self.folder):
            # Another process may have built it meanwhile.
            if artifact := self._open_best(spec, alone=True):
                return artifact
            self._make(spec, build, listener)
            if artifact := self._open(spec.key):
                return artifact
            raise DamagedError("it was deleted at once")

    # ------------------------------------------------------------------------- opening

    def _open_best(self, spec: BuildSpec, *, alone: bool) -> Artifact | None:
        """Open the entry of *spec*, or else the tightest that covers it.

        Args:
            spec: The asked spec.
            alone: Whether the caller holds the build lock of its key, and may set a
                damaged entry of it aside.
        """
        for key in self._candidates(spec):
            try:
                artifact = self._open(key)
            except ForeignError:
                continue
            except DamagedError as damage:
                if key != spec.key:
                    # Checks it again under its build lock, and sets it aside.
                    with contextlib.suppress(OSError):
                        list(verify(self.folder, [key]))
                elif alone:
                    self.folder.set_aside(key, str(damage))
                continue
            if artifact is not None:
                _log_if_larger(artifact.spec, spec)
                return artifact
        return None

    def _candidates(self, spec: BuildSpec) -> Iterator[str]:
        yield spec.key
        for entry in self.folder.serving(spec):
            if entry.key != spec.key:
                yield entry.key

    def _open(self, key: str) -> Artifact | None:
        """Open an entry if it exists.

        Raises:
            DamagedError: The entry differs from the build.
            ForeignError: Another version of unillm made it.
        """
        entry = self.folder.path(key)
        if not entry.exists():
            return None
        use = self.folder.use_lock(key)
        with contextlib.ExitStack() as unless_opened:
            unless_opened.callback(use.release)
            try:
                use.acquire(shared=True)
                os.utime(entry)  # the time of the last use
            except OSError as error:  # a full or read-only cache still serves
                log.debug("The use of %s is not noted: %s", key, error)
            if not entry.exists():  # pruned before it was locked
                return None
            artifact = Artifact(entry / FILES, self.folder.check(key), use)
            unless_opened.pop_all()
        return artifact

    # ------------------------------------------------------------------------ building

    @contextlib.contextmanager
    def _alone(self, spec: BuildSpec, listener: Listener) -> Iterator[None]:
        """Hold the build lock of a key; wait while another process holds it.

        A failed build leaves its error in the lock, with which the processes that
        waited fail too, instead of building one after the other.

        Raises:
            EngineBuildError: The build in the other process failed, or the file cannot
                be locked.
        """
        report = self._reporter(spec, listener)
        waited_for: Owner | None = None

        lock = self.folder.build_lock(spec.key)
        with _explained(spec, self.folder), contextlib.ExitStack() as waiting:

            def wait(owner: Owner | None) -> None:
                nonlocal waited_for
                if waited_for is None:
                    waiting.enter_context(phase("waiting for a build elsewhere"))
                waited_for = owner or waited_for
                report("waiting", owner=owner)

            lock.acquire(on_wait=wait)
        try:
            last = lock.owner()
            if last is not None and last.failure and last == waited_for:
                raise EngineBuildError(
                    f"The build for {spec.model!r} on the backend {spec.backend!r} "
                    f"that this call waited for failed in {last}: {last.failure}",
                    key=spec.key,
                    backend=spec.backend,
                )
            owner = Owner.this_process()
            lock.sign(owner)
            try:
                yield
            except Exception as error:
                lock.sign(attrs.evolve(owner, failure=str(error)))
                raise
        finally:
            lock.release()

    def _reporter(self, spec: BuildSpec, listener: Listener) -> Callable[..., None]:
        """Return a function that reports a stage, with the time since this call."""
        started = time.monotonic()
        past = past_build(spec, self.folder.manifests())

        def report(stage: Stage, **details: Any) -> None:
            elapsed_s = time.monotonic() - started
            listener(
                BuildStatus(
                    spec=spec, stage=stage, elapsed_s=elapsed_s, past=past, **details
                )
            )

        return report

    def _make(self, spec: BuildSpec, build: Build, listener: Listener) -> None:
        """Build an entry and publish it. The caller holds its build lock."""
        with phase(f"building the {spec.backend} engine") as tell:
            self._make_entry(spec, build, self._reporter(spec, listener), tell)

    def _make_entry(
        self, spec: BuildSpec, build: Build, report: Callable[..., None], tell: Report
    ) -> None:
        started = time.monotonic()

        def progress(message: str, *, fraction: float | None = None) -> None:
            report("building", message=message, fraction=fraction)
            tell(message, fraction=fraction)

        for path in self.folder.unfinished(spec.key):
            log.info("%s of a killed build is deleted.", path)
            self.folder.delete(path)
        self.folder.empty_trash()
        temporary = self.folder.new_build(spec.key)
        files = temporary / FILES
        try:
            files.mkdir(parents=True)
            report("building")
            build(spec, files, progress)
            seconds = time.monotonic() - started
            self._check_model(spec)
            report("sealing")
            tell("hashing it and writing it out")
            self._seal(spec, temporary, seconds)
            self._publish(temporary, spec.key)
        finally:
            self.folder.delete(temporary)  # does nothing after `_publish`
        report("ready")

    def _check_model(self, spec: BuildSpec) -> None:
        """Refuse a build during which the model changed."""
        now = self.folder.digests.of(spec.model_path, spec.model_files)
        if changed := [name for name in now if now[name] != spec.model_files[name]]:
            raise EngineBuildError(
                f"{', '.join(changed)} of {spec.model!r} changed while the engine was "
                "built, so the engine may hold parts of both. Build it again.",
                key=spec.key,
                backend=spec.backend,
            )

    def _seal(self, spec: BuildSpec, temporary: Path, seconds: float) -> None:
        """Write the manifest, and sync everything to the disk."""
        files = temporary / FILES
        sizes = sizes_of_files(files)
        if not sizes:
            raise DamagedError("the backend wrote no file")
        for name in sizes:
            (files / name).chmod(0o444)
        digests = self.folder.digests.of(files, sizes)
        _sync_tree(files)
        Manifest(
            spec=spec,
            files={
                name: StoredFile(size=size, sha256=digests[name])
                for name, size in sizes.items()
            },
            built_at=dt.datetime.now(dt.timezone.utc),
            build_seconds=round(seconds, 3),
            versions={
                "unillm": VERSION,
                "python": platform.python_version(),
            },
        ).write(temporary)

    def _publish(self, temporary: Path, key: str) -> None:
        entry = self.folder.path(key)
        entry.parent.mkdir(exist_ok=True)
        try:
            temporary.rename(entry)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # A machine that these locks do not reach was faster.
            log.info("%s was built elsewhere at the same time.", key)
            return
        sync_folder(entry.parent)
        sync_folder(self.folder.root)
        self.folder.digests.move(temporary / FILES, entry / FILES)


def _log_if_larger(built: BuildSpec, asked: BuildSpec) -> None:
    if built.key == asked.key:
        return
    larger = ", ".join(
        f"{name}={limit or 'unlimited'} serves {asked.limits[name]}"
        for name, limit in built.limits.items()
        if limit != asked.limits[name]
    )
    message = "The %s engine for %s that was built with larger limits is used: %s."
    log.info(message, asked.backend, asked.model, larger)


def _sync_tree(folder: Path) -> None:
    """Sync all files and names below a folder to the disk."""
    for directory, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(directory) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(directory))


@contextlib.contextmanager
def _explained(spec: BuildSpec, folder: ArtifactFolder) -> Iterator[None]:
    """Turn any error of a build into one that says what to do.

    Raises:
        EngineBuildError: For every error but unillm's own, which pass.
    """
    try:
        yield
    except UnillmError:
        raise
    except Exception as error:
        advice = ""
        if isinstance(error, OSError) and error.errno in _FULL:
            advice = (
                f" {_free(folder.root)} are free in {folder.root}. Make room with "
                f"`unillm cache prune`, or set {CACHE_VARIABLE} to a larger disk."
            )
        elif isinstance(error, OSError) and _concerns(error, folder.root):
            advice = (
                f" The cache folder {folder.root.parent} cannot be made or written. "
                f"Set {CACHE_VARIABLE} to a folder that can."
            )
        raise EngineBuildError(
            f"No engine could be built for {spec.model!r} on the backend "
            f"{spec.backend!r}: {type(error).__name__}: {error}.{advice}",
            key=spec.key,
            backend=spec.backend,
        ) from error


def _concerns(error: OSError, root: Path) -> bool:
    """Whether an error is about the cache folder, or about a folder above it."""
    if not isinstance(error.filename, str):
        return error.errno in _READ_ONLY
    path = Path(error.filename)
    return path.is_relative_to(root) or root.is_relative_to(path)


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free:,} bytes"
