# SPDX-License-Identifier: Apache-2.0

"""Batch jobs on a cluster."""

from __future__ import annotations

import json
import threading
import time

import psutil
import pytest
from questions import TINY, prompts
from unillm_ray import RayWorker

from unillm import run_batch
from unillm.jobs import LocalWorker

FIELDS = {"temperature": 0, "max_tokens": 60}


@pytest.fixture
def lines(tmp_path):
    """A file of rows, one of them bad."""
    rows = [{"id": i, "prompt": prompt} for i, prompt in enumerate(prompts(120))]
    rows[7]["max_tokens"] = -3
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def kill_an_actor(journal):
    """Kill a process that answers, once some answers are on the disk."""
    while not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)
    for process in psutil.process_iter(["cmdline"]):
        if "LineAnswerer" in " ".join(process.info["cmdline"] or []):
            process.kill()
            return


def test_a_job_goes_on_when_an_actor_is_killed(cluster, generator, lines, tmp_path):
    worker = RayWorker("unillm/tiny", num_replicas=2, **TINY)
    killer = threading.Thread(
        target=kill_an_actor, args=[tmp_path / "far.jsonl.job" / "lines"]
    )

    killer.start()
    far = run_batch(lines, tmp_path / "far.jsonl", worker, params=FIELDS)
    killer.join()
    near = run_batch(lines, tmp_path / "near.jsonl", generator, params=FIELDS)

    assert (far.num_lines, far.num_failed) == (near.num_lines, near.num_failed)
    assert (far.num_lines, far.num_failed) == (120, 1)
    far_text, near_text = (
        (tmp_path / name).read_text() for name in ("far.jsonl", "near.jsonl")
    )
    assert far_text == near_text


def test_a_job_is_the_same_job_with_and_without_a_cluster(cluster):
    far = RayWorker("unillm/tiny", **TINY).identity

    assert far == LocalWorker("unillm/tiny", **TINY).identity
