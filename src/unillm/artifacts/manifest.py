# SPDX-License-Identifier: Apache-2.0

"""What is known of a prepared engine: what for, which files, and how long it took."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .key import BuildSpec
from .sealed import BrokenSealError, read_sealed, write_sealed

MANIFEST = "manifest.json"
FILES = "files"
"""Folder of an entry that is handed to the engine."""

FORMAT = 1
"""Of the manifest. Entries of another one are neither loaded nor called damaged."""


class DamagedError(Exception):
    """An entry is not what was built; its text says what is wrong."""


class ForeignError(Exception):
    """An entry was made by another version of unillm, and says nothing to this one."""


@attrs.frozen(kw_only=True)
class StoredFile:
    """A file of a prepared engine."""

    size: int
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """What `manifest.json` says."""

    spec: BuildSpec
    files: Mapping[str, StoredFile]
    """By path in the folder of files, with slashes."""
    built_at: dt.datetime
    """When the build ended; in UTC."""
    build_seconds: float
    """How long it took, without waiting for others and without hashing."""
    versions: Mapping[str, str]
    """Of unillm and Python, for people: what changes the result is in the spec."""

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files.values())

    def write(self, entry: Path) -> None:
        """Write it into the folder of an entry."""
        content = {
            "format": FORMAT,
            "key": self.spec.key,
            "spec": self.spec.to_json(),
            "files": {name: attrs.asdict(file) for name, file in self.files.items()},
            "built_at": self.built_at.isoformat(),
            "build_seconds": self.build_seconds,
            "versions": dict(self.versions),
        }
        write_sealed(entry / MANIFEST, content)

    @classmethod
    def read(cls, entry: Path) -> Manifest:
        """Read the manifest of an entry.

        Raises:
            DamagedError: It is missing or was changed since it was written.
            ForeignError: Another version of unillm wrote it.
        """
        try:
            content = read_sealed(entry / MANIFEST)
        except (OSError, BrokenSealError) as error:
            raise DamagedError(str(error)) from error
        if content.get("format") != FORMAT:
            raise ForeignError(f"its format is {content.get('format')}, not {FORMAT}")
        try:
            spec = BuildSpec.from_json(content["spec"])
        except ValueError as error:
            raise ForeignError(str(error)) from error
        return cls(
            spec=spec,
            files={name: StoredFile(**file) for name, file in content["files"].items()},
            built_at=dt.datetime.fromisoformat(content["built_at"]),
            build_seconds=content["build_seconds"],
            versions=content["versions"],
        )

    def check_files(self, entry: Path) -> None:
        """Check that all files are there, in their sizes, and no others.

        Raises:
            DamagedError: Says which one is not.
        """
        found = sizes_of_files(entry / FILES)
        for name in sorted(found.keys() | self.files.keys()):
            expected = self.files[name].size if name in self.files else None
            if name not in found:
                raise DamagedError(f"{name} is missing")
            if expected is None:
                raise DamagedError(f"{name} is not in the manifest")
            if found[name] != expected:
                raise DamagedError(
                    f"{name} has {found[name]:,} bytes instead of {expected:,}"
                )

    def check_digests(self, digests: Mapping[str, str]) -> None:
        """Check what the files hold.

        Raises:
            DamagedError: Says which one does not hold what was built.
        """
        for name, file in self.files.items():
            if digests[name] != file.sha256:
                raise DamagedError(f"{name} does not hold what was built")


def sizes_of_files(folder: Path) -> dict[str, int]:
    """Return the size of every file below a folder, by its path there.

    Raises:
        DamagedError: There is something that is neither a file nor a folder, or the
            folder cannot be read.
    """
    sizes: dict[str, int] = {}
    pending = [folder]
    try:
        while pending:
            with os.scandir(pending.pop()) as listing:
                for found in listing:
                    path = Path(found.path)
                    name = path.relative_to(folder).as_posix()
                    if found.is_dir(follow_symlinks=False):
                        pending.append(path)
                    elif found.is_file(follow_symlinks=False):
                        sizes[name] = found.stat(follow_symlinks=False).st_size
                    else:
                        raise DamagedError(f"{name} is neither a file nor a folder")
    except OSError as error:
        raise DamagedError(f"{folder.name} cannot be read: {error}") from error
    return dict(sorted(sizes.items()))


def versions_here() -> dict[str, Any]:
    """Return the versions that a manifest names."""
    import platform
    from importlib.metadata import version

    return {"unillm": version("unillm"), "python": platform.python_version()}
