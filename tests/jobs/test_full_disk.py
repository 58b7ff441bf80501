# SPDX-License-Identifier: Apache-2.0

"""A job on a file system that is full, first for its journal, then for its output."""

from __future__ import annotations

import subprocess

import pytest

from unillm import run_batch
from unillm.errors import BatchStorageError
from unillm.jobs import journal
from unillm.jobs.status import job_status

LINES = 4000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own; called with a size in KiB, it gets that size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount("size=64k"):
        pytest.skip("needs the right to mount a tmpfs")

    def resize(kib):
        assert mount(f"remount,size={kib}k") == 0
        return place

    yield resize
    subprocess.run(["umount", str(place)], check=True)


def test_a_job_goes_on_when_its_disk_has_room(
    scripted, batch_line, given, tmp_path, small_disk, monkeypatch
):
    monkeypatch.setattr(journal, "MAX_GROUP", 100)  # the group that fails is lost
    path = given(*(batch_line(f"r{n}", "p") for n in range(LINES)))
    whole, output = tmp_path / "whole.jsonl", small_disk(600) / "out.jsonl"
    run_batch(path, whole, scripted())
    kib = whole.stat().st_size // 1024

    with pytest.raises(BatchStorageError, match="No space left on device"):
        run_batch(path, output, scripted())
    in_journal = job_status(output).num_done
    small_disk(kib + kib // 2)
    with pytest.raises(BatchStorageError, match="No space left on device"):
        run_batch(path, output, scripted())
    at_output = job_status(output)
    small_disk(4 * kib)
    report = run_batch(path, output, scripted())

    assert 0 < in_journal < LINES
    assert (at_output.num_done, at_output.finished) == (LINES, False)
    assert report.num_resumed == LINES
    assert output.read_bytes() == whole.read_bytes()
