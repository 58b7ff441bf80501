# SPDX-License-Identifier: Apache-2.0

"""The manifest of a prepared engine: its spec, its files and the time of its build."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from .key import BuildSpec
from .records import BrokenSealError, from_json, read_sealed, to_json, write_sealed

MANIFEST = "manifest.json"
FILES = "files"
"""Folder of an entry that the engine opens."""

FORMAT = 1
"""Format of the manifest. Entries of another format are neither loaded nor damaged."""


class DamagedError(Exception):
    """An entry differs from the build; the text says where."""


class ForeignError(Exception):
    """Another version of unillm made an entry, so this one cannot read it."""


@attrs.frozen(kw_only=True)
class StoredFile:
    """A file of a prepared engine."""

    size: int
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """The content of ``manifest.json``."""

    spec: BuildSpec
    files: Mapping[str, StoredFile]
    """By path in the folder of files, with slashes."""
    built_at: dt.datetime
    """Time of the end of the build, in UTC."""
    build_seconds: float
    """Duration of the build, without waiting and hashing."""
    versions: Mapping[str, str]
    """Versions of unillm and Python, for people; the spec has those that matter."""

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files.values())

    def write(self, entry: Path) -> None:
        """Write the manifest into the folder of an entry."""
        content = {"format": FORMAT, "key": self.spec.key, **to_json(self)}
        write_sealed(entry / MANIFEST, content)

    @classmethod
    def read(cls, entry: Path) -> Manifest:
        """Read the manifest of an entry.

        Raises:
            DamagedError: The manifest is missing or was changed after it was written.
            ForeignError: Another version of unillm wrote it.
        """
        try:
            content = read_sealed(entry / MANIFEST)
        except (OSError, BrokenSealError) as error:
            raise DamagedError(str(error)) from error
        if content.get("format") != FORMAT:
            raise ForeignError(f"its format is {content.get('format')}, not {FORMAT}")
        try:
            manifest = from_json(content, cls)
        except ValueError as error:
            raise ForeignError(str(error)) from error
        if manifest.spec.key != content.get("key"):
            raise ForeignError("the fields of the spec are those of another version")
        return manifest

    def check_files(self, entry: Path) -> None:
        """Check the names and sizes of all files.

        Raises:
            DamagedError: A file is missing, unknown, or has another size.
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
        """Check the content of all files.

        Raises:
            DamagedError: A file has other content.
        """
        for name, file in self.files.items():
            if digests[name] != file.sha256:
                raise DamagedError(f"{name} differs from the build")


def sizes_of_files(folder: Path) -> dict[str, int]:
    """Return the size of every file below a folder, by its path there.

    Raises:
        DamagedError: The folder cannot be read, or holds a link or another thing that
            is neither a file nor a folder.
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
