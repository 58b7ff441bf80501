# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import time

import attrs
import pytest

from unillm.artifacts import digests
from unillm.artifacts.upkeep import (
    PrunePolicy,
    Removal,
    Verdict,
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
    """Keys of three engines, that were last used 3, 2 and 1 days ago."""
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


def test_whole_engines_are_found_whole(folder, three):
    assert [Verdict(key=key) for key in sorted(three)] == list(verify(folder))


def test_all_bytes_are_read_whatever_is_known(folder, three, monkeypatch):
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

    verdicts = {verdict.key: verdict for verdict in verify(folder)}

    assert verdicts[three[0]].problem == ""
    assert verdicts[three[1]].is_damaged
    assert "engine.bin" in verdicts[three[1]].problem
    assert keys_of(folder) == {three[0], three[2]}


def test_only_those_that_were_asked_for_are_verified(folder, three):
    assert [three[2]] == [verdict.key for verdict in verify(folder, [three[2]])]


def test_what_is_being_replaced_is_left_out(folder, three):
    lock = folder.build_lock(three[0])
    lock.acquire()

    assert set(three[1:]) == {verdict.key for verdict in verify(folder)}

    lock.release()


def test_another_versions_engine_is_not_judged(folder, three, monkeypatch):
    monkeypatch.setattr("unillm.artifacts.manifest.FORMAT", 2)

    for verdict in verify(folder):
        assert verdict.problem == "its format is 1, not 2"
        assert not verdict.is_damaged

    assert keys_of(folder) == set(three)


# ------------------------------------------------------------------------------- prune


def test_by_default_no_engine_goes(folder, three):
    report = prune(folder)

    assert report.removed == ()
    assert keys_of(folder) == set(three)


def test_what_nobody_can_use_goes(folder, three):
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
    assert [] == folder.set_aside_entries()


def test_a_living_build_is_left_alone(folder, three):
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
def test_the_policy_says_what_goes(folder, three, policy, kept):
    report = prune(folder, PrunePolicy(**policy))

    assert keys_of(folder) == {three[place] for place in kept}
    assert len(report.removed) == 3 - len(kept)
    assert {key for key, _ in folder.locks()} == keys_of(folder)


def test_what_was_unused_for_longest_makes_room(folder, three):
    size = folder.entries()[0].total_bytes()

    report = prune(folder, PrunePolicy(max_bytes=2 * size + 50))

    assert [three[0]] == [removal.key for removal in report.removed]
    assert report.total_bytes == pytest.approx(size, abs=10)


def test_one_key_goes(folder, three):
    prune(folder, PrunePolicy(keys=[three[1]]))

    assert keys_of(folder) == {three[0], three[2]}


def test_what_is_in_use_stays(store, folder, three, spec, builder):
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
    assert before == sorted(folder.root.rglob("*"))


def test_use_is_remembered(store, folder, three, spec, builder):
    (entry,) = (each for each in folder.entries() if each.key == spec.key)
    assert last_use(entry) < time.time() - 2 * DAY_S

    store.obtain(spec, builder).close()

    assert last_use(entry) > time.time() - 60


def test_an_empty_cache_is_no_error(folder):
    assert prune(folder, PrunePolicy(everything=True)).removed == ()
    assert [] == list(verify(folder))
