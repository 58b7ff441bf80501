# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import os
import shutil
import threading
import time

import attrs
import pytest

from unillm.artifacts import digests
from unillm.artifacts.folder import cache_folder
from unillm.artifacts.manifest import ForeignError
from unillm.artifacts.records import read_sealed, write_sealed
from unillm.artifacts.store import ArtifactStore
from unillm.errors import ConfigError, EngineBuildError, EngineOutOfMemoryError

FILES = {"engine.bin": bytes(range(200)), "vocabulary/tokens.json": b'["a", "b"]'}


def content(artifact):
    return {
        path.relative_to(artifact.path).as_posix(): path.read_bytes()
        for path in artifact.path.rglob("*")
        if path.is_file()
    }


def obtain(store, spec, builder, **options):
    """Obtain an engine, close it, and return its files."""
    with store.obtain(spec, builder, **options) as artifact:
        return content(artifact)


def leftovers(store):
    return [
        path
        for folder in ("building", "trash")
        for path in (store.folder.root / folder).glob("*")
    ]


# --------------------------------------------------------------------- built and found


def test_an_engine_is_built_once(store, root, spec, builder):
    assert obtain(store, spec, builder) == FILES
    assert obtain(store, spec, builder) == FILES
    assert obtain(ArtifactStore(root), spec, builder) == FILES

    assert builder.built == [spec]
    assert leftovers(store) == []


def test_another_spec_is_another_engine(store, spec, builder):
    obtain(store, spec, builder)
    obtain(store, attrs.evolve(spec, quantization="int8"), builder)

    assert len(builder.built) == 2
    assert len(store.folder.entries()) == 2


def test_the_manifest_has_spec_files_versions_and_time(store, spec, builder):
    with store.obtain(spec, builder) as artifact:
        manifest = artifact.manifest

    assert manifest.spec == spec
    assert {name: file.size for name, file in manifest.files.items()} == {
        name: len(data) for name, data in FILES.items()
    }
    assert manifest.total_bytes == sum(map(len, FILES.values()))
    assert manifest.versions.keys() == {"unillm", "python"}
    assert 0 <= manifest.build_seconds < 60


def test_files_are_read_only(store, spec, builder):
    with store.obtain(spec, builder) as artifact:
        assert (artifact.path / "engine.bin").stat().st_mode & 0o222 == 0


def test_an_engine_with_larger_limits_is_used_and_logged(store, spec, builder, caplog):
    caplog.set_level(logging.INFO, "unillm.artifacts")
    obtain(store, attrs.evolve(spec, max_seq_len=1024), builder)

    with store.obtain(spec, builder) as artifact:
        assert artifact.spec.max_seq_len == 1024

    assert len(builder.built) == 1
    said = [each for each in caplog.messages if "larger limits" in each]
    assert len(said) == 1
    assert "max_seq_len=1024 serves 512" in said[0]


def test_the_tightest_that_covers_is_used(store, spec, builder):
    for batch, length in [(64, 512), (8, 2048), (9, 600)]:
        large = attrs.evolve(spec, max_batch_size=batch, max_seq_len=length)
        with store.obtain(large, builder):
            pass

    with store.obtain(attrs.evolve(spec, max_seq_len=600), builder) as artifact:
        assert (artifact.spec.max_batch_size, artifact.spec.max_seq_len) == (9, 600)


def test_a_smaller_engine_does_not_serve(store, spec, builder):
    obtain(store, spec, builder)
    obtain(store, attrs.evolve(spec, max_seq_len=513), builder)

    assert len(builder.built) == 2


def test_a_spec_with_unknown_fields_is_refused(store, spec, builder):
    with pytest.raises(ConfigError, match="engine_version and device"):
        store.obtain(attrs.evolve(spec, engine_version=None, device=None), builder)

    assert builder.built == []


# ------------------------------------------------------------------------------ damage


def _cut(entry):
    os.truncate(entry / "files" / "engine.bin", 100)


def _flip(entry):
    file = entry / "files" / "engine.bin"
    state = file.stat()
    file.write_bytes(bytes([1, *bytes(range(1, 200))]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def _remove(entry):
    (entry / "files" / "vocabulary" / "tokens.json").unlink()


def _add(entry):
    (entry / "files" / "vocabulary" / "more.json").write_text("{}")


def _link(entry):
    (entry / "files" / "link").symlink_to("engine.bin")


def _lose_manifest(entry):
    (entry / "manifest.json").unlink()


def _cut_manifest(entry):
    os.truncate(entry / "manifest.json", 100)


def _lose_files(entry):
    shutil.rmtree(entry / "files")


DAMAGES = [
    _cut,
    _flip,
    _remove,
    _add,
    _link,
    _lose_manifest,
    _cut_manifest,
    _lose_files,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_set_aside_and_built_again(
    store, spec, builder, damage, caplog
):
    with store.obtain(spec, builder):
        pass
    damage(store.folder.path(spec.key))

    assert obtain(store, spec, builder) == FILES

    assert len(builder.built) == 2
    (aside,) = store.folder.set_aside_entries()
    assert aside.problem
    assert aside.problem in caplog.text
    assert obtain(store, spec, builder) == FILES
    assert len(builder.built) == 2


@pytest.mark.parametrize("damage", [_cut, _flip, _add])
def test_a_damaged_entry_does_not_cover_a_smaller_request(store, spec, builder, damage):
    large = attrs.evolve(spec, max_seq_len=1024)
    obtain(store, large, builder)
    damage(store.folder.path(large.key))

    with store.obtain(spec, builder) as artifact:
        assert artifact.spec == spec

    assert [each.key for each in store.folder.set_aside_entries()] == [large.key]


def test_an_entry_under_another_key_is_damage(store, spec, builder):
    obtain(store, spec, builder)
    other = attrs.evolve(spec, dtype="float16")
    store.folder.path(spec.key).rename(store.folder.path(other.key))

    with store.obtain(other, builder) as artifact:
        assert artifact.spec == other

    assert "another entry" in store.folder.set_aside_entries()[0].problem


def test_one_damaged_entry_of_each_key_is_kept(store, spec, builder):
    for _ in range(3):
        obtain(store, spec, builder)
        _cut(store.folder.path(spec.key))
    obtain(store, spec, builder)

    assert len(store.folder.set_aside_entries()) == 1


def test_an_engine_in_use_stays_readable_when_it_is_set_aside(store, spec, builder):
    with store.obtain(spec, builder) as artifact:
        engine = (artifact.path / "engine.bin").open("rb")
        _add(store.folder.path(spec.key))

        assert obtain(store, spec, builder) == FILES

        assert engine.read() == FILES["engine.bin"]
        engine.close()


def test_only_the_first_load_of_a_boot_hashes(store, spec, builder, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_S", -1)
    obtain(store, spec, builder)
    hashed = []
    digest_file = digests.digest_file
    monkeypatch.setattr(
        digests, "digest_file", lambda p: hashed.append(p.name) or digest_file(p)
    )

    obtain(store, spec, builder)
    assert hashed == []

    monkeypatch.setattr(digests, "boot_id", lambda: "another")
    for _ in range(2):
        obtain(store, spec, builder)
    assert sorted(hashed) == ["engine.bin", "tokens.json"]


@pytest.mark.parametrize("change", ["one more", "one less"])
def test_an_entry_of_another_version_is_neither_loaded_nor_damaged(
    store, spec, builder, change
):
    obtain(store, spec, builder)
    manifest = store.folder.path(spec.key) / "manifest.json"
    content = read_sealed(manifest)
    if change == "one more":
        content["spec"]["new_field"] = 1
        content["key"] = "0" * 32
    else:
        del content["spec"]["dtype"]
    write_sealed(manifest, content)

    with pytest.raises(ForeignError, match="version"):
        store.folder.check(spec.key)

    assert store.folder.set_aside_entries() == []


# ------------------------------------------------------------------------------ faults


def test_a_failed_build_leaves_nothing(store, spec, builder):
    builder.fault = RuntimeError("the converter broke")

    with pytest.raises(EngineBuildError, match="the converter broke") as caught:
        store.obtain(spec, builder)

    assert caught.value.key == spec.key
    assert caught.value.backend == "scripted"
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert leftovers(store) == []
    assert store.folder.entries() == []
    builder.fault = None
    assert obtain(store, spec, builder) == FILES


@pytest.mark.parametrize(
    "fault", [EngineOutOfMemoryError("too large"), KeyboardInterrupt()], ids=repr
)
def test_errors_of_unillm_and_interrupts_pass_as_they_are(store, spec, builder, fault):
    builder.fault = fault

    with pytest.raises(type(fault)) as caught:
        store.obtain(spec, builder)

    assert caught.value is fault
    assert leftovers(store) == []


def test_a_build_without_files_is_refused(store, spec):
    with pytest.raises(EngineBuildError, match="wrote no file"):
        store.obtain(spec, lambda spec, target, progress: None)


def test_a_build_with_links_is_refused(store, spec):
    def build(spec, target, progress):
        (target / "weights").symlink_to(spec.model_path / "model.safetensors")

    with pytest.raises(EngineBuildError, match="weights is neither a file nor"):
        store.obtain(spec, build)


def test_a_model_that_changes_during_the_build_is_noticed(store, spec, builder):
    def build(spec, target, progress):
        builder(spec, target, progress)
        (spec.model_path / "config.json").write_text('{"hidden_size": 9}')

    with pytest.raises(EngineBuildError, match=r"config\.json .* changed while"):
        store.obtain(spec, build)

    assert store.folder.entries() == []


def test_a_build_deletes_the_rests_of_a_killed_one(store, spec, builder):
    obtain(store, attrs.evolve(spec, dtype="float16"), builder)
    left = store.folder.new_build(spec.key)
    (left / "files").mkdir(parents=True)
    (left / "files" / "half").write_bytes(b"half")
    others = store.folder.new_build("0" * 32)
    others.mkdir()

    obtain(store, spec, builder)

    assert leftovers(store) == [others]


def test_a_cache_that_cannot_be_written_raises(tmp_path, spec, builder):
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(EngineBuildError, match="NotADirectoryError"):
        ArtifactStore(tmp_path / "file").obtain(spec, builder)


def test_the_error_of_a_full_disk_has_its_free_bytes(store, spec):
    def build(spec, target, progress):
        raise OSError(28, "No space left on device")

    with pytest.raises(EngineBuildError, match=r"bytes are free in .*UNILLM_CACHE"):
        store.obtain(spec, build)


def test_a_cache_without_locks_still_serves(store, spec, builder, monkeypatch):
    obtain(store, spec, builder)

    def refuse(lock, *, shared=False):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("unillm.artifacts.lock.FileLock.try_acquire", refuse)

    assert obtain(store, spec, builder) == FILES


def test_a_caller_that_waits_for_a_failing_build_fails_with_it(
    store, root, spec, builder
):
    """It does not build again; a later call does."""
    waiting, done = threading.Event(), []

    def fail(spec, target, progress):
        waiting.wait(10)
        builder.fault = RuntimeError("the converter broke")
        builder(spec, target, progress)

    def first():
        with pytest.raises(EngineBuildError, match="the converter broke"):
            store.obtain(spec, fail)
        done.append("first")

    def second(status):
        assert status.stage == "waiting"
        if status.owner is not None:
            assert status.owner.pid == os.getpid()
            assert str(status).startswith(
                f"Waiting for process {os.getpid()}, building"
            )
            waiting.set()

    thread = threading.Thread(target=first)
    thread.start()
    while not store.folder.unfinished():
        time.sleep(0.001)
    with pytest.raises(
        EngineBuildError, match=r"waited for failed in .* converter broke"
    ):
        ArtifactStore(root).obtain(spec, builder, listener=second)
    thread.join()

    assert done == ["first"]
    assert len(builder.built) == 1
    builder.fault = None
    assert obtain(store, spec, builder) == FILES


def test_an_unclosed_artifact_warns(store, spec, builder):
    artifact = store.obtain(spec, builder)

    with pytest.warns(ResourceWarning, match="was not closed"):
        artifact.__del__()


def test_a_build_on_another_machine_at_the_same_time_is_used(
    store, spec, builder, root
):
    """Where locks do not reach the other machine, the first finished build counts."""

    def build(spec, target, progress):
        builder(spec, target, progress)
        elsewhere = ArtifactStore(root / "elsewhere")
        obtain(elsewhere, spec, builder)
        entry = store.folder.path(spec.key)
        entry.parent.mkdir()
        elsewhere.folder.path(spec.key).rename(entry)

    assert obtain(store, spec, build) == FILES
    assert leftovers(store) == []


# ---------------------------------------------------------------------------- progress


def test_the_listener_gets_stages_and_past_builds(store, spec, builder):
    statuses = []

    obtain(store, spec, builder, listener=statuses.append)
    _cut(store.folder.path(spec.key))
    obtain(store, spec, builder, listener=statuses.append)
    obtain(
        store, attrs.evolve(spec, max_seq_len=999), builder, listener=statuses.append
    )

    once = [
        ("building", "", None),
        ("building", "first file", 0.0),
        ("building", "second file", 0.5),
        ("sealing", "", None),
        ("ready", "", None),
    ]
    assert [(s.stage, s.message, s.fraction) for s in statuses] == once * 3
    assert {status.past for status in statuses[:5]} == {None}
    assert all(status.past.same for status in statuses[5:10])
    assert all(not status.past.same for status in statuses[10:])


def test_the_default_listener_logs(store, spec, builder, caplog):
    caplog.set_level(logging.INFO, "unillm.artifacts")

    obtain(store, spec, builder)

    assert caplog.messages == [
        "Building the scripted engine for some/model.",
        "Building the scripted engine for some/model: 0 %, first file.",
        "Building the scripted engine for some/model: 50 %, second file.",
        "Hashing and writing out the scripted engine for some/model.",
        "The scripted engine for some/model is ready.",
    ]


def test_the_environment_names_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("UNILLM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"

    monkeypatch.setenv("UNILLM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "unillm"

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "unillm"
