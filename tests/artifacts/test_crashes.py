# SPDX-License-Identifier: Apache-2.0

"""Kills, crowds and full disks: no damaged engine is ever loaded.

The processes that are killed run in `crashes`, a program of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from unillm.artifacts import digests
from unillm.artifacts.manifest import DamagedError
from unillm.artifacts.store import ArtifactStore
from unillm.errors import EngineBuildError

PROGRAM = Path(__file__).with_name("crashes.py")


def number(few, many):
    """Parametrise with a few cases by default, and many in the large run."""
    return [
        pytest.param(few, id="few"),
        pytest.param(many, id="many", marks=pytest.mark.large),
    ]


@pytest.fixture
def run(tmp_path):
    """Run one kind of crash *number* times, and check that nothing is wrong then."""

    def run(what, number, folder=tmp_path):
        done = subprocess.run(
            [sys.executable, PROGRAM, what, folder, str(number)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        assert found["failures"] == [], done.stderr
        return found["outcomes"]

    return run


@pytest.mark.parametrize("count", number(few=40, many=600))
def test_a_build_may_be_killed_at_any_statement(run, count):
    outcomes = run("nothing-there", count)

    assert outcomes["nothing"] + outcomes["whole"] == count
    assert outcomes["killed"] >= count - 1  # threads may save a statement or two
    assert outcomes["nothing"] > count / 4
    assert outcomes["whole"] > 0


@pytest.mark.parametrize("count", number(few=12, many=300))
@pytest.mark.parametrize("what", ["all-damaged", "left-by-others", "pruned"])
def test_clearing_may_be_killed_at_any_statement(run, what, count):
    outcomes = run(what, count)

    assert outcomes["nothing"] + outcomes["whole"] == count
    assert outcomes["killed"] >= count - 1
    assert outcomes["nothing"] > 0
    assert outcomes["whole"] > 0


@pytest.mark.parametrize("count", number(few=20, many=300))
def test_a_build_may_be_killed_at_any_time(run, count):
    outcomes = run("random-times", count)

    assert outcomes["nothing"] + outcomes["whole"] == count
    assert outcomes["nothing"] > 0


@pytest.mark.parametrize("rounds", number(few=3, many=10))
def test_eight_processes_make_one_build(run, rounds):
    assert run("crowd", rounds) == {"1 builds": rounds}


@pytest.mark.parametrize("rounds", number(few=3, many=10))
def test_the_next_of_eight_processes_builds_when_the_first_is_killed(run, rounds):
    assert run("crowd-killed", rounds) == {"2 builds": rounds}


@pytest.mark.parametrize("count", number(few=9, many=200))
def test_a_limit_on_files_raises_and_leaves_nothing(run, count):
    outcomes = run("file-limit", count)

    assert outcomes["refused"] > 0
    assert outcomes["built"] > 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk with 200 blocks."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", folder]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount program to make a small disk with")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("count", number(few=12, many=60))
def test_a_full_disk_raises_and_leaves_nothing(run, small_disk, count):
    outcomes = run("full-disk", count, small_disk)

    assert outcomes["refused"] > 0
    assert outcomes["built"] > 0 or count == 12


def test_a_read_only_disk_serves_its_engines(small_disk, spec, builder):
    on_disk = ArtifactStore(small_disk)
    on_disk.obtain(spec, builder).close()
    remount = ["mount", "-o", "remount,ro", small_disk]
    if subprocess.run(remount, check=False).returncode:
        pytest.skip("a disk cannot be made read-only here")

    with on_disk.obtain(spec, builder) as artifact:
        assert (artifact.path / "engine.bin").read_bytes() == bytes(range(200))
    with pytest.raises(EngineBuildError, match="Set UNILLM_CACHE to a folder that can"):
        on_disk.obtain(attrs.evolve(spec, dtype="float16"), builder)

    assert len(builder.built) == 1


# --------------------------------------------------------------------------- bit flips


@pytest.mark.parametrize("every", number(few=97, many=1))
@pytest.mark.parametrize("settled_s", [1e9, 0.02], ids=["unknown", "hashed before"])
def test_no_flipped_bit_is_loaded(store, spec, builder, monkeypatch, every, settled_s):
    """Flips every n-th bit of every file, and sets mtime back."""
    monkeypatch.setattr(digests, "SETTLED_S", settled_s)
    store.obtain(spec, builder).close()
    entry = store.folder.path(spec.key)
    flipped = 0
    for file in sorted(path for path in entry.rglob("*") if path.is_file()):
        file.chmod(0o644)
        whole, state = file.read_bytes(), file.stat()
        for bit in range(0, 8 * len(whole), every):
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
            with pytest.raises(DamagedError):
                store.folder.check(spec.key)
            flipped += 1
        file.write_bytes(whole)
        store.folder.check(spec.key)

    size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    assert flipped >= 8 * size // every


# --------------------------------------------------------------------------- power loss


def test_every_byte_is_on_the_disk_before_the_rename(store, spec, builder, monkeypatch):
    synced, renamed = set(), {}
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor):
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def note_rename(path, target):
        if target.parent.name == "entries":
            for each in (path, *path.rglob("*")):
                renamed[each.name] = each.stat().st_ino in synced
            synced.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    store.obtain(spec, builder).close()

    names = {"manifest.json", "files", "engine.bin", "vocabulary", "tokens.json"}
    assert names < renamed.keys()
    assert all(renamed.values()), renamed
    assert store.folder.path(spec.key).parent.stat().st_ino in synced
