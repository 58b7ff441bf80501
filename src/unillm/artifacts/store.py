# SPDX-License-Identifier: Apache-2.0

"""Prepared engines: built once, by one process, and whole whenever they are loaded.

An entry is made in a folder of its own and takes its place by one rename, after every
byte is on the disk. So it is there as a whole or not at all, whatever kills the process
that makes it. It is checked at each load, and replaced if it is damaged.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
from typing_extensions import Self

from ..errors import ConfigError, EngineBuildError, UnillmError
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
    versions_here,
)
from .progress import BuildStatus, Listener, Progress, Stage, past_build, tell_news
from .sealed import sync_folder

log = logging.getLogger("unillm.artifacts")

Build = Callable[[BuildSpec, Path, Progress], None]
"""`Backend.build`: writes an engine for a spec into an empty folder."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Artifact:
    """A prepared engine that is whole, and is not pruned until this is closed.

    Attributes:
        path: Folder of its files. Nothing in it may be changed or added.
        manifest: What is known of it.
    """

    def __init__(self, path: Path, manifest: Manifest, use: FileLock | None) -> None:
        self.path = path
        self.manifest = manifest
        self._use = use

    @property
    def spec(self) -> BuildSpec:
        """What it was built for, which may be more than what was asked."""
        return self.manifest.spec

    def close(self) -> None:
        """Allow that it is pruned. A second time does nothing."""
        if self._use is not None:
            self._use.release()
            self._use = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_use", None) is not None:
            warnings.warn(
                f"{self.path} was not closed",
                ResourceWarning,
                stacklevel=1,  # nobody called this
                source=self,
            )
            self.close()


class ArtifactStore:
    """The prepared engines of a cache folder, for any number of processes at a time.

    Args:
        root: The cache folder; `None` for the one that the environment says.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.folder = ArtifactFolder(root)

    def obtain(
        self, spec: BuildSpec, build: Build, *, listener: Listener | None = None
    ) -> Artifact:
        """Return an engine for *spec*: one that is there, or a new one.

        One that was built with larger limits will do. If another process is building
        this one, it is waited for. What is damaged is set aside and built again.

        Args:
            spec: What it is for.
            build: Called in this thread if nothing is there that serves.
            listener: Told in this thread what happens; `None` logs it.

        Raises:
            EngineBuildError: The build failed, here or in the process that was waited
                for. Nothing is left of it.
            ConfigError: The spec has unknown fields.
            UnillmError: What `build` raised, as it is.
        """
        if spec.unknown:
            raise ConfigError(
                f"No engine can be had for {spec.model!r}: {' and '.join(spec.unknown)}"
                f" of the backend {spec.backend!r} cannot be known here."
            )
        listener = listener or tell_news(log.info)
        with _explained(spec, self.folder):
            artifact = self._open_best(spec, alone=False)
        if artifact is not None:
            return artifact
        with self._alone(spec, listener):
            # Who was waited for may have built it.
            if artifact := self._open_best(spec, alone=True):
                return artifact
            self._make(spec, build, listener)
            return self._open_new(spec)

    # ------------------------------------------------------------------------- opening

    def _open_best(self, spec: BuildSpec, *, alone: bool) -> Artifact | None:
        """Open the entry of *spec*, or else the tightest that covers it.

        Args:
            spec: What is asked for.
            alone: Whether the build lock of its key is held, so that its entry can be
                set aside if it is damaged.
        """
        for key in self._candidates(spec):
            try:
                artifact = self._open(key)
            except ForeignError:
                continue
            except DamagedError as damage:
                if key != spec.key:
                    self._try_set_aside(key)
                elif alone:
                    with _explained(spec, self.folder):
                        self.folder.set_aside(key, str(damage))
                continue
            if artifact is not None:
                _tell_if_larger(artifact.spec, spec)
                return artifact
        return None

    def _candidates(self, spec: BuildSpec) -> Iterator[str]:
        yield spec.key
        for entry in self.folder.serving(spec):
            if entry.key != spec.key:
                yield entry.key

    def _open(self, key: str) -> Artifact | None:
        """Open an entry if there is one.

        Raises:
            DamagedError: It is not what was built.
            ForeignError: Another version of unillm made it.
        """
        place = self.folder.path(key)
        if not place.exists():
            return None
        with contextlib.ExitStack() as on_failure:
            use = self._use(key)
            if use is not None:
                on_failure.callback(use.release)
            if not place.exists():  # pruned a moment ago
                return None
            manifest = self.folder.check(key)
            on_failure.pop_all()
        return Artifact(place / FILES, manifest, use)

    def _use(self, key: str) -> FileLock | None:
        lock = self.folder.use_lock(key)
        try:
            lock.path.parent.mkdir(exist_ok=True)
            lock.acquire(shared=True)
        except OSError as error:
            # A cache that is full or read-only serves all the same.
            log.debug("%s is used without a lock: %s", key, error)
            return None
        with contextlib.suppress(OSError):  # it may be another user's
            os.utime(self.folder.path(key))  # when it was used last
        return lock

    def _try_set_aside(self, key: str) -> None:
        """Set a damaged entry of another key aside, unless somebody is at it."""
        lock = self.folder.build_lock(key)
        with contextlib.suppress(OSError, ForeignError):
            if not lock.try_acquire():
                return
            try:
                self.folder.check(key)
            except DamagedError as damage:
                self.folder.set_aside(key, str(damage))
            finally:
                lock.release()

    # ------------------------------------------------------------------------ building

    @contextlib.contextmanager
    def _alone(self, spec: BuildSpec, listener: Listener) -> Iterator[None]:
        """Hold the build lock of a key; wait for it if another process has it.

        A failure is left in the lock for those who wait: they fail too, instead of
        trying the same again one after the other.

        Raises:
            EngineBuildError: The build that was waited for failed, or locks cannot be
                had here.
        """
        started = time.monotonic()
        past = past_build(spec, self.folder.manifests())
        waited_for: Owner | None = None

        def wait(owner: Owner | None) -> None:
            nonlocal waited_for
            waited_for = owner or waited_for
            listener(
                BuildStatus(
                    spec=spec,
                    stage="waiting",
                    elapsed_s=time.monotonic() - started,
                    past=past,
                    owner=owner,
                )
            )

        lock = self.folder.build_lock(spec.key)
        with _explained(spec, self.folder):
            lock.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(on_wait=wait)
        try:
            last = lock.owner()
            if waited_for and last and last.failure and last.is_same(waited_for):
                raise EngineBuildError(
                    f"The build for {spec.model!r} on the backend {spec.backend!r} "
                    f"failed in {last}, which was waited for: {last.failure}",
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

    def _make(self, spec: BuildSpec, build: Build, listener: Listener) -> None:
        """Build an entry and put it in its place. Its build lock is held."""
        started = time.monotonic()
        past = past_build(spec, self.folder.manifests())

        def tell(
            stage: Stage, message: str = "", fraction: float | None = None
        ) -> None:
            listener(
                BuildStatus(
                    spec=spec,
                    stage=stage,
                    message=message,
                    fraction=fraction,
                    elapsed_s=time.monotonic() - started,
                    past=past,
                )
            )

        def progress(message: str, *, fraction: float | None = None) -> None:
            tell("building", message, fraction)

        self._clear_leftovers(spec.key)
        temporary = self.folder.new_build(spec.key)
        files = temporary / FILES
        try:
            with _explained(spec, self.folder):
                files.mkdir(parents=True)
                tell("building")
                build(spec, files, progress)
                seconds = time.monotonic() - started
                self._check_model(spec)
                tell("sealing")
                self._seal(spec, temporary, seconds)
                self._publish(temporary, spec.key)
        finally:
            self.folder.delete(temporary)  # is gone from there if all went well
        tell("ready")

    def _clear_leftovers(self, key: str) -> None:
        for path in self.folder.unfinished(key):
            log.info("%s is left of a build that was killed and is deleted.", path)
            self.folder.delete(path)
        self.folder.empty_trash()

    def _check_model(self, spec: BuildSpec) -> None:
        """Refuse what was built if the model changed meanwhile."""
        now = self.folder.digests.of(spec.model_path, spec.model_files)
        if changed := [name for name in now if now[name] != spec.model_files[name]]:
            raise EngineBuildError(
                f"{', '.join(changed)} of {spec.model!r} changed while the engine was "
                "built, so nobody knows what it holds. Build it again.",
                key=spec.key,
                backend=spec.backend,
            )

    def _seal(self, spec: BuildSpec, temporary: Path, seconds: float) -> None:
        """Write the manifest, and everything to the disk."""
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
            versions=versions_here(),
        ).write(temporary)

    def _publish(self, temporary: Path, key: str) -> None:
        place = self.folder.path(key)
        place.parent.mkdir(exist_ok=True)
        try:
            temporary.rename(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Where locks do not reach another machine, that one was faster.
            log.info("%s was built elsewhere at the same time.", key)
            return
        sync_folder(place.parent)
        sync_folder(self.folder.root)
        self.folder.digests.move(temporary / FILES, place / FILES)

    def _open_new(self, spec: BuildSpec) -> Artifact:
        with _explained(spec, self.folder):
            artifact = self._open(spec.key)
            if artifact is None:
                raise DamagedError("it was deleted at once")
        return artifact


def _tell_if_larger(built: BuildSpec, asked: BuildSpec) -> None:
    if built.key == asked.key:
        return
    larger = ", ".join(
        f"{name}={limit or 'unlimited'} serves {asked.limits[name]}"
        for name, limit in built.limits.items()
        if limit != asked.limits[name]
    )
    log.info(
        "The %s engine for %s that was built with larger limits is used: %s.",
        asked.backend,
        asked.model,
        larger,
    )


def _sync_tree(folder: Path) -> None:
    """Bring all files and names below a folder to the disk."""
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
    """Turn whatever goes wrong in a build into an error that says what to do.

    Raises:
        EngineBuildError: For everything but unillm's own errors, which pass.
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
        elif isinstance(error, OSError) and error.errno in _READ_ONLY:
            advice = f" Set {CACHE_VARIABLE} to a folder that can be written."
        raise EngineBuildError(
            f"No engine could be built for {spec.model!r} on the backend "
            f"{spec.backend!r}: {type(error).__name__}: {error}.{advice}",
            key=spec.key,
            backend=spec.backend,
        ) from error


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free:,} bytes"
