# SPDX-License-Identifier: Apache-2.0

"""The folder of prepared engines: its layout, and reading, checking and clearing it.

::

    $UNILLM_CACHE/artifacts/
      entries/KEY/manifest.json       spec, files and time of the build
      entries/KEY/files/              files that the engine opens
      building/KEY-RANDOM/            unfinished entries; never loaded
      aside/KEY/                      damaged entries; never loaded; see reason.json
      trash/                          folders that a process deletes
      locks/KEY.build, KEY.use        locks of living processes
      digests/                        digests of files, while they stay unchanged

An entry appears in and leaves ``entries`` as a whole, by one rename.
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

from ..errors import ConfigError, ModelLoadError
from .digests import Digests
from .key import BuildSpec
from .lock import FileLock
from .manifest import FILES, DamagedError, ForeignError, Manifest, sizes_of_files
from .records import BrokenSealError, read_sealed, sync_folder, write_sealed

log = logging.getLogger("unillm.artifacts")

CACHE_VARIABLE = "UNILLM_CACHE"
"""Environment variable that names the cache folder."""

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")
"""Files of a model."""

_REASON = "reason.json"


def cache_folder() -> Path:
    """Return the cache folder: `CACHE_VARIABLE`, or ``unillm`` in the user's cache.

    Raises:
        ConfigError: The path names the home of a user without one.
    """
    given = os.environ.get(CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not given and base.is_absolute():
        return base / "unillm"
    folder = os.path.expanduser(given or "~/.cache/unillm")
    if folder.startswith("~"):  # nothing looks below the working directory
        raise ConfigError(
            f"The cache folder {folder} cannot be found: no home directory is "
            f"known for {Path(folder).parts[0]}. Set {CACHE_VARIABLE} to the path of a "
            "folder."
        )
    return Path(folder).absolute()


@attrs.frozen(kw_only=True)
class Entry:
    """An entry of the folder, by its manifest alone."""

    key: str
    path: Path
    manifest: Manifest | None
    """`None` if it cannot be read."""
    problem: str = ""
    """Reason why the manifest cannot be read, or the entry was set aside."""

    def total_bytes(self) -> int:
        """Return the size on the disk."""
        with contextlib.suppress(DamagedError):
            return sum(sizes_of_files(self.path).values())
        return 0


class ArtifactFolder:
    """The folder below a cache folder, created when it first stores something.

    Args:
        root: The cache folder; `None` for `cache_folder()`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_folder()) / "artifacts"
        self.digests = Digests(self.root / "digests")

    def path(self, key: str) -> Path:
        """Return the folder of the entry of a key, which may not exist."""
        return self.root / "entries" / key

    def new_build(self, key: str) -> Path:
        """Return a folder for a new entry of a key, which does not exist yet."""
        return self.root / "building" / f"{key}-{secrets.token_hex(4)}"

    def build_lock(self, key: str) -> FileLock:
        """Return the exclusive lock for building, replacing and deleting an entry."""
        return FileLock(self.root / "locks" / f"{key}.build")

    def use_lock(self, key: str) -> FileLock:
        """Return the lock that the users of an entry share."""
        return FileLock(self.root / "locks" / f"{key}.use")

    def locks(self) -> list[tuple[str, FileLock]]:
        """Return all locks that have a file, with their keys."""
        return [(path.stem, FileLock(path)) for path in self._listed("locks")]

    def digest_model(
        self, path: Path, patterns: Iterable[str] = MODEL_FILES
    ) -> dict[str, str]:
        """Return the digests of a model's files, for `BuildSpec.model_files`.

        Hashes a file once, and again only when it has changed.

        Args:
            path: Directory of the model.
            patterns: Patterns of the files that the build reads. A change of any other
                file then needs no new build.

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
        """Return all entries that may be loaded, without reading their files."""
        return [self._entry(path) for path in self._listed("entries")]

    def serving(self, spec: BuildSpec) -> list[Entry]:
        """Return the entries that cover a spec, the tightest first."""
        fitting = [
            (entry.manifest.spec.excess(spec), entry.key, entry)
            for entry in self.entries()
            if entry.manifest is not None and entry.manifest.spec.covers(spec)
        ]
        return [entry for _, _, entry in sorted(fitting, key=lambda each: each[:2])]

    def set_aside_entries(self) -> list[Entry]:
        """Return the damaged entries, each with the reason."""
        return [
            attrs.evolve(self._entry(path), problem=_reason(path))
            for path in self._listed("aside")
        ]

    def unfinished(self, key: str | None = None) -> dict[Path, str]:
        """Return the folders of unfinished builds, running or dead, with their keys."""
        found = {path: path.name.partition("-")[0] for path in self._listed("building")}
        return {path: of for path, of in found.items() if key in (None, of)}

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifests of all entries, damaged ones too."""
        for entry in (*self.entries(), *self.set_aside_entries()):
            if entry.manifest is not None:
                yield entry.manifest

    def check(self, key: str) -> Manifest:
        """Return the manifest of an entry whose files are all as they were built.

        Hashes each file that changed, or was not hashed since the machine started.

        Raises:
            DamagedError: The entry differs from the build.
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
        """Move a damaged entry to ``aside``, where it replaces an older one of its key.

        The caller holds the build lock.

        Raises:
            OSError: The entry cannot be moved.
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
        """Delete a folder if it exists; files that cannot be deleted stay in the trash.

        Renames the folder first, so that no process finds half of it at its old path.
        """
        trash = self.root / "trash"
        try:
            trash.mkdir(exist_ok=True)
            path = path.rename(trash / f"{path.name}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            return
        except OSError as error:
            log.debug("%s is not moved to the trash first: %s", path, error)
        shutil.rmtree(path, ignore_errors=True)

    def empty_trash(self) -> None:
        """Delete the rests that killed processes left."""
        for path in self._listed("trash"):
            shutil.rmtree(path, ignore_errors=True)


def _reason(aside: Path) -> str:
    try:
        return str(read_sealed(aside / _REASON)["reason"])
    except (OSError, BrokenSealError, KeyError):
        return "the process that set it aside was killed before it wrote the reason"
