# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from runtime.driving import END, PATIENCE_S

from unillm.openmp import SPINS
from unillm.runtime import cores
from unillm.runtime.cores import FIRST_REST_S, INTERVAL_S, CoreWatch, waited_s
from unillm.testing.scripted import ScriptedSlotEngine


class Teams:
    def __init__(self):
        self.held = False
        self.switches = []

    def hold(self):
        self.held = True
        self.switches.append("hold")

    def release(self):
        self.held = False
        self.switches.append("release")


class Watched:
    """A watch whose clock and whose waiting the test moves."""

    def __init__(self):
        self.now = 0.0
        self.waited = 0.0
        self.teams = Teams()
        self.watch = CoreWatch(lambda: self.waited, self.teams, lambda: self.now)
        self.watch.look()

    def work(self, seconds, crowd):
        """Look at every interval while threads wait for the part *crowd* of the time."""
        for _ in range(round(seconds / INTERVAL_S)):
            self.now += INTERVAL_S
            self.waited += crowd * INTERVAL_S
            self.watch.look()


def test_loops_stay_on_idle_cores():
    watched = Watched()

    watched.work(100, crowd=0.05)

    assert watched.teams.switches == []


def test_loops_end_at_the_first_look_at_crowded_cores():
    watched = Watched()

    watched.work(INTERVAL_S, crowd=0.7)

    assert watched.teams.switches == ["hold"]


def test_loops_begin_again_after_a_rest_on_free_cores():
    watched = Watched()
    watched.work(1, crowd=0.7)

    watched.work(FIRST_REST_S - 1, crowd=0.0)
    assert watched.teams.switches == ["hold"]
    watched.work(2, crowd=0.0)

    assert watched.teams.switches == ["hold", "release"]


def test_a_crowd_that_only_loops_show_is_tried_ever_less_often():
    watched = Watched()

    for _ in range(round(200 / INTERVAL_S)):
        watched.work(INTERVAL_S, crowd=0.0 if watched.teams.held else 0.7)

    # After 2, 4, 8, 16, 32, 64 and 64 seconds.
    assert watched.teams.switches.count("release") == 7


def test_time_without_work_is_not_judged():
    watched = Watched()

    watched.now += 10
    watched.waited += 9
    watched.watch.look()

    assert watched.teams.switches == []


def test_a_system_that_does_not_tell_changes_nothing():
    teams = Teams()
    watch = CoreWatch(lambda: None, teams, time.monotonic)

    for _ in range(3):
        watch.look()

    assert teams.switches == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's numbers are Linux's")
def test_waiting_for_a_core_is_counted():
    core = {min(os.sched_getaffinity(0))}
    stop = threading.Event()

    def work():
        os.sched_setaffinity(0, core)  # this thread alone
        while not stop.is_set():
            sum(range(1000))

    before = waited_s()
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os; os.sched_setaffinity(0, {core})\nwhile 1: 0",
        ]
    )
    thread = threading.Thread(target=work)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while waited_s() - before < 0.05 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert waited_s() - before >= 0.05
    finally:
        stop.set()
        thread.join()
        other.kill()
        other.wait()


TEAMS = """
import os, threading, time
import torch
from unillm.runtime.cores import IdleTeams

def threads():
    return len(os.listdir("/proc/self/task"))

torch.ones(1)
before = threads()
teams = IdleTeams()
teams.hold()
held = threads() - before
teams.release()
deadline = time.monotonic() + 60
while threads() > before and time.monotonic() < deadline:
    time.sleep(0.01)
print(held - len(os.sched_getaffinity(0)), threads() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is Linux's")
def test_idle_teams_have_more_threads_than_cores_and_end_with_their_release():
    run = subprocess.run(
        [sys.executable, "-c", TEAMS], capture_output=True, text=True, check=True
    )

    beyond, left = map(int, run.stdout.split())
    assert beyond >= 1
    assert left == 0


def test_teams_that_cannot_be_made_are_done_without(monkeypatch, caplog):
    monkeypatch.setattr(cores, "libraries", lambda: ["/nowhere/libgomp.so"])
    teams = cores.IdleTeams()

    with caplog.at_level("WARNING", "unillm.cores"):
        teams.hold()
        teams.release()

    assert "/nowhere/libgomp.so" in caplog.text


@pytest.mark.parametrize(
    ("given", "watched"),
    [
        ({"GOMP_SPINCOUNT": SPINS}, True),  # as `share_cores` sets it
        ({"GOMP_SPINCOUNT": "1"}, False),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, False),
        ({"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": SPINS}, False),
    ],
)
def test_an_engine_is_watched_unless_the_user_has_said_how_threads_wait(
    monkeypatch, drive, handle_for, given, watched
):
    looks = []

    def look(watch):
        looks.append(watch)

    monkeypatch.setattr(os, "environ", given)
    monkeypatch.setattr(CoreWatch, "look", look)
    driver = drive(ScriptedSlotEngine(lambda _, n: [104, 105, END][n]))
    handle = handle_for()

    driver.submit(handle, block=False)
    handle.result(PATIENCE_S)
    driver.close()

    assert bool(looks) is watched
