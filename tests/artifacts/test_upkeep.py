# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import time

import attrs
import pytest

from unillm.artifacts import digests
from unillm.artifacts.upkeep import (
    Check,
    PrunePolicy,
    Removal,
    is_in_use,
    last_use,
    prune,
    verify,
)

DAY_S = 86_400


@pytest.fixture
def folder(store):
    return store.folder


@pytest.fixture
def three(store, spec, builder):
    """Keys of three engines, last used 3, 2 and 1 days ago."""
    keys = []
    for days, dtype in enumerate(("float32", "float16", "bfloat16")):
        each = attrs.evolve(spec, dtype=dtype)
        store.obtain(each, builder).close()
        keys.append(each.key)
        used = time.time() - (3 - days) * DAY_S
        os.utime(store.folder.path(each.key), (used, used))
    return keys


def keys_of(folder):
    return {entry.key for entry in folder.entries()}


def flip(folder, key):
    file = folder.path(key) / "files" / "engine.bin"
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.write(b"!")


# ------------------------------------------------------------------------------ verify


def test_whole_engines_have_no_problem(folder, three):
    assert list(verify(folder)) == [Check(key=key) for key in sorted(three)]


def test_all_bytes_are_read_whatever_is_remembered(folder, three, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_S", -1)
    list(verify(folder))
    hashed = []
    digest_file = digests.digest_file
    monkeypatch.setattr(
        digests, "digest_file", lambda path: hashed.append(path) or digest_file(path)
    )

    list(verify(folder))

    assert len(hashed) == 3 * 2


def test_a_damaged_engine_is_set_aside(folder, three):
    flip(folder, three[1])

    checks = {check.key: check for check in verify(folder)}

    assert checks[three[0]].problem == ""
    assert checks[three[1]].is_damaged
    assert "engine.bin" in checks[three[1]].problem
    assert keys_of(folder) == {three[0], three[2]}


def test_only_the_given_keys_are_verified(folder, three):
    assert [check.key for check in verify(folder, [three[2]])] == [three[2]]


def test_an_entry_that_a_process_replaces_is_skipped(folder, three):
    lock = folder.build_lock(three[0])
    lock.acquire()

    assert {check.key for check in verify(folder)} == set(three[1:])

    lock.release()


def test_an_entry_of_another_version_is_not_damaged(folder, three, monkeypatch):
    monkeypatch.setattr("unillm.artifacts.manifest.FORMAT", 2)

    for check in verify(folder):
        assert check.problem == "its format is 1, not 2"
        assert not check.is_damaged

    assert keys_of(folder) == set(three)


# ------------------------------------------------------------------------------- prune


def test_by_default_no_engine_is_deleted(folder, three):
    report = prune(folder)

    assert report.removed == ()
    assert keys_of(folder) == set(three)


def test_damaged_engines_and_rests_of_dead_builds_are_deleted(folder, three):
    flip(folder, three[0])
    list(verify(folder))
    unfinished = folder.new_build(three[1])
    unfinished.mkdir()
    (unfinished / "half").write_bytes(b"1234")

    report = prune(folder)

    assert {removal.what for removal in report.removed} == {
        "damaged engine",
        "unfinished build",
    }
    assert Removal(what="unfinished build", key=three[1], total_bytes=4) in (
        report.removed
    )
    assert keys_of(folder) == set(three[1:])
    assert not unfinished.exists()
    assert folder.set_aside_entries() == []


def test_a_running_build_is_kept(folder, three):
    unfinished = folder.new_build(three[1])
    unfinished.mkdir()
    lock = folder.build_lock(three[1])
    lock.acquire()

    prune(folder, PrunePolicy(everything=True))

    assert unfinished.exists()
    lock.release()


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ({"unused_for_s": 1.5 * DAY_S}, [2]),
        ({"unused_for_s": 9 * DAY_S}, [0, 1, 2]),
        ({"everything": True}, []),
        ({"max_bytes": 10**9}, [0, 1, 2]),
        ({"max_bytes": 0}, []),
    ],
    ids=["unused", "all used", "everything", "enough room", "no room"],
)
def test_the_policy_chooses_the_engines(folder, three, policy, kept):
    report = prune(folder, PrunePolicy(**policy))

    assert keys_of(folder) == {three[index] for index in kept}
    assert len(report.removed) == 3 - len(kept)
    assert {key for key, _ in folder.locks()} == keys_of(folder)


def test_the_least_recently_used_engine_makes_room(folder, three):
    size = folder.entries()[0].total_bytes()

    report = prune(folder, PrunePolicy(max_bytes=2 * size + 50))

    assert [removal.key for removal in report.removed] == [three[0]]
    assert report.total_bytes == pytest.approx(size, abs=10)


def test_one_key_is_deleted(folder, three):
    prune(folder, PrunePolicy(keys=[three[1]]))

    assert keys_of(folder) == {three[0], three[2]}


def test_an_engine_in_use_is_kept(store, folder, three, spec, builder):
    with store.obtain(spec, builder):
        assert is_in_use(folder, spec.key)

        report = prune(folder, PrunePolicy(everything=True))

        assert report.in_use == (spec.key,)
        assert keys_of(folder) == {spec.key}

    assert not is_in_use(folder, spec.key)
    prune(folder, PrunePolicy(everything=True))
    assert keys_of(folder) == set()


def test_a_dry_run_deletes_nothing(folder, three):
    before = sorted(folder.root.rglob("*"))

    report = prune(folder, PrunePolicy(everything=True), dry_run=True)

    assert len(report.removed) == 3
    assert sorted(folder.root.rglob("*")) == before


def test_a_load_is_a_use(store, folder, three, spec, builder):
    (entry,) = (each for each in folder.entries() if each.key == spec.key)
    assert last_use(entry) < time.time() - 2 * DAY_S

    store.obtain(spec, builder).close()

    assert last_use(entry) > time.time() - 60


def test_an_empty_cache_is_accepted(folder):
    assert prune(folder, PrunePolicy(everything=True)).removed == ()
    assert list(verify(folder)) == []
