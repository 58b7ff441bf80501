# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import attrs
import pytest

from unillm.artifacts.lock import FileLock, Owner

HOLD = """
import sys, time
from pathlib import Path
from unillm.artifacts.lock import FileLock, Owner
lock = FileLock(Path(sys.argv[1]))
assert lock.try_acquire()
lock.sign(Owner.this_process())
print("held", flush=True)
time.sleep(60)
"""

FORK = """
import os, sys, time
from pathlib import Path
from unillm.artifacts.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.try_acquire()
if os.fork() == 0:
    print("child", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def process(path):
    """Start a process that holds the lock; return it and its first line of output."""
    started = []

    def start(script):
        running = subprocess.Popen(
            [sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True
        )
        started.append(running)
        return running, running.stdout.readline()

    yield start
    for running in started:
        running.kill()
        running.wait()
        running.stdout.close()


def is_free(path):
    lock = FileLock(path)
    try:
        return lock.try_acquire()
    finally:
        lock.release()


def test_one_owner_at_a_time(path):
    first, second = FileLock(path), FileLock(path)
    assert first.try_acquire()

    assert not second.try_acquire()

    first.release()
    first.release()
    assert second.try_acquire()
    second.release()


def test_threads_of_one_process_exclude_each_other(path):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(3):
            lock = FileLock(path)
            lock.acquire()
            inside += 1
            most = max(most, inside)
            time.sleep(0.001)
            inside -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1


def test_shared_owners_exclude_an_exclusive_one(path):
    readers = [FileLock(path), FileLock(path)]
    assert all(reader.try_acquire(shared=True) for reader in readers)

    assert not is_free(path)

    readers[0].release()
    assert not is_free(path)
    readers[1].release()
    assert is_free(path)


def test_a_killed_owner_leaves_no_lock(path, process):
    running, _ = process(HOLD)
    assert not is_free(path)

    running.kill()
    running.wait()

    assert is_free(path)


def test_a_forked_child_does_not_hold_the_lock_of_its_parent(path, process):
    running, line = process(FORK)
    child = int(line.split()[1])
    try:
        assert not is_free(path)

        running.kill()
        running.wait()

        os.kill(child, 0)  # it lives
        assert is_free(path)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_waiting_caller_gets_the_owner_and_its_time(path, process):
    before = time.time()
    running, _ = process(HOLD)
    owners = []

    def on_wait(owner):
        owners.append(owner)
        running.kill()
        running.wait()

    lock = FileLock(path)
    lock.acquire(on_wait=on_wait)
    lock.release()

    assert owners[0].pid == running.pid
    assert before <= owners[0].since <= time.time()
    assert str(owners[0]) == f"process {running.pid}"
    elsewhere = attrs.evolve(owners[0], host="elsewhere")
    assert str(elsewhere) == f"process {running.pid} on elsewhere"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_an_unreadable_owner_is_none(path, text):
    path.write_text(text)

    assert FileLock(path).owner() is None


def test_an_exception_of_on_wait_ends_the_wait(path):
    first = FileLock(path)
    first.acquire()

    def on_wait(owner):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FileLock(path).acquire(on_wait=on_wait)
    first.release()


def test_a_deleted_lock_file_keeps_its_lock_exclusive(path):
    first, second = FileLock(path), FileLock(path)
    first.acquire()

    def on_wait(owner):
        first.remove()

    second.acquire(on_wait=on_wait)

    assert path.exists()
    assert not is_free(path)
    second.release()


def test_an_owner_stays_equal_with_a_failure(path):
    owner = Owner.this_process()

    assert attrs.evolve(owner, failure="no") == owner
    assert attrs.evolve(owner, since=0.0) != owner
