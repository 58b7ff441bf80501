# SPDX-License-Identifier: Apache-2.0

"""The folder of prepared engines: what stands where, read, checked and cleared away.

::

    $UNILLM_CACHE/artifacts/
      entries/KEY/manifest.json       what for, which files, how long it took
      entries/KEY/files/              what the engine is given
      building/KEY-RANDOM/            not finished; never loaded
      aside/KEY/                      was damaged; never loaded; reason.json says why
      trash/                          being deleted
      locks/KEY.build, KEY.use        held by living processes
      digests/                        of files that have not changed since

Whatever appears in or leaves ``entries`` does so by one rename of a whole entry.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from ..errors import ModelLoadError
from .digests import Digests
from .key import BuildSpec
from .lock import FileLock
from .manifest import FILES, DamagedError, ForeignError, Manifest, sizes_of_files
from .sealed import BrokenSealError, read_sealed, sync_folder, write_sealed

log = logging.getLogger("unillm.artifacts")

CACHE_VARIABLE = "UNILLM_CACHE"
"""Environment variable that says where the cache is."""

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")
"""What a model consists of."""

_REASON = "reason.json"


def cache_folder() -> Path:
    """Return where unillm keeps what it made: `CACHE_VARIABLE`, or XDG's place."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "unillm"


@attrs.frozen(kw_only=True)
class Entry:
    """What stands under a key, by its manifest alone."""

    key: str
    path: Path
    manifest: Manifest | None
    """`None` if it cannot be read."""
    problem: str = ""
    """Why it cannot be read, or was set aside."""

    def total_bytes(self) -> int:
        """Return what it takes on the disk."""
        with contextlib.suppress(DamagedError):
            return sum(sizes_of_files(self.path).values())
        return 0


class ArtifactFolder:
    """The folder below a cache folder. Nothing is made in it until something is kept.

    Args:
        root: The cache folder; `None` for `cache_folder()`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_folder()) / "artifacts"
        self.digests = Digests(self.root / "digests")

    def path(self, key: str) -> Path:
        """Return where the entry of a key is, if there is one."""
        return self.root / "entries" / key

    def new_build(self, key: str) -> Path:
        """Return where a new entry can be made, beside all others of its key."""
        return self.root / "building" / f"{key}-{secrets.token_hex(4)}"

    def build_lock(self, key: str) -> FileLock:
        """Return the lock of who builds, replaces or deletes an entry."""
        return self._lock(f"{key}.build")

    def use_lock(self, key: str) -> FileLock:
        """Return the lock that is shared by who uses an entry."""
        return self._lock(f"{key}.use")

    def locks(self) -> list[tuple[str, FileLock]]:
        """Return all locks that have a file, with the keys that they are of."""
        return [(path.stem, FileLock(path)) for path in self._listed("locks")]

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.root / "locks" / name)

    def digest_model(
        self, path: Path, patterns: Iterable[str] = MODEL_FILES
    ) -> dict[str, str]:
        """Return the digests of a model's files, for `BuildSpec.model_files`.

        Hashed once, and again only when a file has changed.

        Args:
            path: Directory of the model.
            patterns: Of the files that the build reads. Fewer than all spares a new
                build when a file changes that it does not read.

        Raises:
            ModelLoadError: No file matches, or one cannot be read.
        """
        names = {file.name for each in patterns for file in path.glob(each)}
        if not names:
            raise ModelLoadError(f"{path} has no {' or '.join(patterns)}.")
        try:
            return self.digests.of(path, sorted(names))
        except OSError as error:
            raise ModelLoadError(f"{path} cannot be read: {error}.") from error

    # ------------------------------------------------------------------------- reading

    def entries(self) -> list[Entry]:
        """Return what is there to be loaded, without a look at the files."""
        return [self._entry(path) for path in self._listed("entries")]

    def serving(self, spec: BuildSpec) -> list[Entry]:
        """Return the entries that were built for a spec or more, the tightest first."""
        fitting = [
            (entry.manifest.spec.excess(spec), entry.key, entry)
            for entry in self.entries()
            if entry.manifest is not None and entry.manifest.spec.covers(spec)
        ]
        return [entry for _, _, entry in sorted(fitting, key=lambda each: each[:2])]

    def set_aside_entries(self) -> list[Entry]:
        """Return what was found damaged, each with the reason."""
        return [
            attrs.evolve(self._entry(path), problem=_reason(path))
            for path in self._listed("aside")
        ]

    def unfinished(self, key: str | None = None) -> dict[Path, str]:
        """Return the folders of builds, done by living processes or not, with keys."""
        found = {path: path.name.partition("-")[0] for path in self._listed("building")}
        return {path: of for path, of in found.items() if key in (None, of)}

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifests of all builds on record, damaged ones too."""
        for entry in (*self.entries(), *self.set_aside_entries()):
            if entry.manifest is not None:
                yield entry.manifest

    def check(self, key: str) -> Manifest:
        """Return the manifest of an entry if all of it is what was built.

        Files are hashed unless that was done since the machine started and they have
        not changed since.

        Raises:
            DamagedError: It is not.
            ForeignError: Another version of unillm made it.
        """
        entry = self.path(key)
        manifest = Manifest.read(entry)
        if manifest.spec.key != key:
            raise DamagedError("its manifest is that of another entry")
        manifest.check_files(entry)
        try:
            digests = self.digests.of(
                entry / FILES, manifest.files, this_boot_only=True
            )
        except OSError as error:
            raise DamagedError(str(error)) from error
        manifest.check_digests(digests)
        return manifest

    def _entry(self, path: Path) -> Entry:
        manifest, problem = None, ""
        try:
            manifest = Manifest.read(path)
        except (DamagedError, ForeignError) as error:
            problem = str(error)
        return Entry(key=path.name, path=path, manifest=manifest, problem=problem)

    def _listed(self, folder: str) -> list[Path]:
        try:
            return sorted((self.root / folder).iterdir())
        except FileNotFoundError:
            return []

    # ------------------------------------------------------------------------ clearing

    def set_aside(self, key: str, reason: str) -> None:
        """Take a damaged entry out of use and keep it; its build lock is held.

        The last one of each key is kept.

        Raises:
            OSError: It cannot be moved.
        """
        aside = self.root / "aside" / key
        self.delete(aside)
        aside.parent.mkdir(exist_ok=True)
        self.path(key).rename(aside)
        sync_folder(self.path(key).parent)
        self.digests.forget(self.path(key) / FILES)
        log.warning(
            "The prepared engine %s was damaged (%s) and is set aside in %s.",
            key,
            reason,
            aside,
        )
        with contextlib.suppress(OSError):
            write_sealed(aside / _REASON, {"reason": reason})

    def delete(self, path: Path) -> None:
        """Delete a folder if it is there; what cannot be deleted stays in the trash.

        It is renamed first, so that nobody ever finds half of it in its old place.
        """
        trash = self.root / "trash"
        try:
            trash.mkdir(exist_ok=True)
            path = path.rename(trash / f"{path.name}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            return
        except OSError as error:
            log.debug("%s is deleted where it is: %s", path, error)
        shutil.rmtree(path, ignore_errors=True)

    def empty_trash(self) -> None:
        """Delete what a killed process had begun to delete."""
        for path in self._listed("trash"):
            shutil.rmtree(path, ignore_errors=True)


def _reason(aside: Path) -> str:
    try:
        return str(read_sealed(aside / _REASON)["reason"])
    except (OSError, BrokenSealError, KeyError):
        return "the process that found it was killed before it said why"
