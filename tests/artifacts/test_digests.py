# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import os
import time

import pytest

from unillm.artifacts import digests as module
from unillm.artifacts.digests import Digests

NAMES = ["config.json", "model.safetensors"]


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed, in order."""
    names = []
    digest_file = module.digest_file

    def count(path):
        names.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(module, "digest_file", count)
    return names


@pytest.fixture
def settled(monkeypatch):
    """Files settle a moment after they were written."""
    monkeypatch.setattr(module, "SETTLED_S", 0.02)

    def wait():
        time.sleep(0.03)

    return wait


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_digests_are_those_of_the_content(model, tmp_path):
    found = Digests(tmp_path / "memory").of(model, NAMES)

    assert found == {name: sha256(model / name) for name in NAMES}


def test_an_unchanged_file_is_hashed_once(model, tmp_path, hashed, settled):
    settled()

    for _ in range(3):
        found = Digests(tmp_path / "memory").of(model, NAMES)

    assert sorted(hashed) == NAMES
    assert found == {name: sha256(model / name) for name in NAMES}


def test_a_file_that_changed_just_now_is_hashed_again(model, tmp_path, hashed):
    for _ in range(2):
        Digests(tmp_path / "memory").of(model, NAMES)

    assert sorted(hashed) == sorted(NAMES * 2)


def _grow(file):
    with file.open("ab") as stream:
        stream.write(b"more")


def _flip_and_hide(file):
    """Change a byte and set mtime back."""
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def _replace(file):
    other = file.with_name("other")
    other.write_bytes(file.read_bytes()[::-1])
    state = file.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize("change", [_grow, _flip_and_hide, _replace])
def test_a_changed_file_is_hashed_again(model, tmp_path, hashed, settled, change):
    digests = Digests(tmp_path / "memory")
    settled()
    digests.of(model, NAMES)

    change(model / "model.safetensors")
    found = digests.of(model, NAMES)

    assert hashed[2:] == ["model.safetensors"]
    assert found["model.safetensors"] == sha256(model / "model.safetensors")


def test_digests_of_an_earlier_boot_are_ignored_where_the_caller_asks(
    model, tmp_path, hashed, settled, monkeypatch
):
    digests = Digests(tmp_path / "memory")
    settled()
    for _ in range(2):
        digests.of(model, NAMES, this_boot_only=True)
    assert len(hashed) == 2

    monkeypatch.setattr(module, "boot_id", lambda: "another")
    digests.of(model, NAMES)
    assert len(hashed) == 2

    for _ in range(2):
        digests.of(model, NAMES, this_boot_only=True)
    assert len(hashed) == 4


def test_without_a_boot_id_no_digest_is_of_this_boot(
    model, tmp_path, hashed, settled, monkeypatch
):
    monkeypatch.setattr(module, "boot_id", lambda: None)
    settled()

    for _ in range(2):
        Digests(tmp_path / "memory").of(model, NAMES, this_boot_only=True)

    assert len(hashed) == 4


def test_a_broken_record_is_ignored(model, tmp_path, hashed, settled):
    digests = Digests(tmp_path / "memory")
    settled()
    digests.of(model, NAMES)
    (record,) = (tmp_path / "memory").iterdir()
    record.write_bytes(record.read_bytes().replace(b'"sha256": "', b'"sha256": "0'))

    found = digests.of(model, NAMES)

    assert found == {name: sha256(model / name) for name in NAMES}
    assert len(hashed) == 4


def test_a_memory_that_cannot_be_written_is_ignored(model, tmp_path, settled):
    (tmp_path / "file").write_text("not a folder")
    settled()

    found = Digests(tmp_path / "file" / "memory").of(model, NAMES)

    assert found == {name: sha256(model / name) for name in NAMES}


def test_a_missing_file_raises(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        Digests(tmp_path / "memory").of(model, ["nothing.json"])


def test_prune_deletes_records_of_directories_that_are_gone_and_unfinished_ones(
    model, tmp_path, settled
):
    digests = Digests(tmp_path / "memory")
    settled()
    digests.of(model, NAMES)
    (tmp_path / "memory" / ".a.json.1.2").write_text("{")
    digests.prune()
    assert len(list((tmp_path / "memory").iterdir())) == 1

    model.rename(tmp_path / "elsewhere")
    digests.prune()

    assert list((tmp_path / "memory").iterdir()) == []


def test_a_renamed_directory_keeps_its_digests(model, tmp_path, hashed, settled):
    digests = Digests(tmp_path / "memory")
    settled()
    digests.of(model, NAMES)
    moved = model.rename(tmp_path / "moved")

    digests.move(model, moved)
    digests.of(moved, NAMES)

    assert len(hashed) == 2
