# SPDX-License-Identifier: Apache-2.0

"""Processes that prepare engines and are killed, and checks of the state they leave.

This is a program, because a process without threads forks children in milliseconds:
``crashes.py KIND FOLDER NUMBER``. It prints one JSON object with the number of each
outcome, and all failed checks.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import attrs

import unillm.artifacts
from unillm.artifacts.folder import ArtifactFolder
from unillm.artifacts.key import BuildSpec
from unillm.artifacts.manifest import DamagedError
from unillm.artifacts.store import ArtifactStore
from unillm.artifacts.upkeep import PrunePolicy, prune
from unillm.errors import EngineBuildError

OURS = (str(Path(unillm.artifacts.__file__).parent), __file__)
PROCESSES = 8
PATIENCE_S = 300
"""Time after which a child hangs, on any machine; it should take a second."""


def expected(spec):
    """The files of a build of a spec."""
    seed = spec.key.encode() * 24
    return {"engine.bin": seed, "more/weights.bin": seed[::-1], "config.json": b"{}"}


class Bench:
    """A model, a cache, and a builder that counts its builds in a file outside of it."""

    def __init__(self, folder):
        self.root = folder / "cache"
        self.log = folder / "builds"
        self.folder = ArtifactFolder(self.root)
        self.pause_s = 0.0
        model = folder / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        self.spec = BuildSpec(
            model="some/model",
            model_path=model,
            model_files=ArtifactFolder(folder / "other").digest_model(model),
            backend="scripted",
            backend_version="1",
            engine_version="1",
            device="any",
            dtype="float32",
            max_seq_len=512,
        )

    def clear(self):
        shutil.rmtree(self.root, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def build(self, spec, target, progress):
        with self.log.open("ab", buffering=0) as log:
            log.write(f"{spec.key}\n".encode())
        for name, data in expected(spec).items():
            progress(name)
            file = target / name
            file.parent.mkdir(exist_ok=True)
            with file.open("wb", buffering=0) as stream:
                for start in range(0, len(data), 256):
                    stream.write(data[start : start + 256])
                    time.sleep(self.pause_s)

    def num_builds(self):
        return len(self.log.read_text().split()) if self.log.exists() else 0

    def obtain(self, spec=None):
        spec = spec or self.spec
        with ArtifactStore(self.root).obtain(spec, self.build) as artifact:
            check(artifact.spec == spec, "an engine for something else")
            found = {
                path.relative_to(artifact.path).as_posix(): path.read_bytes()
                for path in artifact.path.rglob("*")
                if path.is_file()
            }
        check(found == expected(spec), "not the engine that was built")

    def is_whole(self):
        """Whether the cache has the whole engine; a damaged one must be noticed."""
        try:
            self.folder.check(self.spec.key)
        except DamagedError:
            return False
        return True

    def damage(self, spec):
        """Change a byte of an engine."""
        file = self.folder.path(spec.key) / "files" / "engine.bin"
        file.chmod(0o644)
        with file.open("r+b") as stream:
            stream.write(b"!")


def check(fact, otherwise):
    if not fact:
        raise AssertionError(otherwise)


# ---------------------------------------------------------------------------- children


def forked(work):
    """Start a child that calls *work*; its status is 0 if that returns."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(PATIENCE_S)
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - nothing may run the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child):
    """Wait for a child, and return its status or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def aftermath(bench):
    """Check that a killed process left no lock and no half engine for the next one.

    Returns:
        ``"whole"`` if it left an engine, or else ``"nothing"``.
    """
    lock = bench.folder.build_lock(bench.spec.key)
    if lock.path.exists():
        check(lock.try_acquire(), "a stale lock")
        lock.release()
    before, whole = bench.num_builds(), bench.is_whole()
    check(ended(forked(bench.obtain)) == 0, "the next process got no engine")
    rebuilt = bench.num_builds() - before
    check(rebuilt == (0 if whole else 1), f"{rebuilt} builds after {whole=}")
    prune(bench.folder)
    left = [*bench.folder.unfinished(), *(bench.folder.root / "trash").glob("*")]
    check(not left, f"leftovers: {left}")
    check(bench.is_whole(), "prune took what it should keep")
    return "whole" if whole else "nothing"


# ------------------------------------------------------------------ at every statement


def traced(work, kill_at, count):
    """Call *work*, and kill this process before its n-th statement.

    Args:
        work: Its statements in the store and in a build count.
        kill_at: n, from 1; 0 for never.
        count: File that gets the number of statements, if *work* returns.
    """
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    work()
    sys.settrace(None)
    count.write_text(str(seen))


def nothing_there(bench):
    """The cache is empty."""
    bench.clear()
    return bench.obtain


def all_damaged(bench):
    """The engine is damaged, so is one that covers it, and one was set aside before."""
    bench.clear()
    large = attrs.evolve(bench.spec, max_seq_len=1024)
    for spec in (bench.spec, bench.spec, large):
        bench.obtain(spec)
        bench.damage(spec)
    return bench.obtain


def left_by_others(bench):
    """Two builds were killed, and a deletion."""
    bench.clear()
    for name in ("building", "building", "trash"):
        left = bench.folder.new_build(bench.spec.key)
        left = bench.folder.root / name / left.name
        (left / "files").mkdir(parents=True)
        (left / "files" / "half").write_bytes(b"half")
    return bench.obtain


def pruned(bench):
    """The engine and a damaged one are deleted."""
    all_damaged(bench)
    bench.obtain()
    return lambda: prune(bench.folder, PrunePolicy(everything=True))


def at_statements(bench, number, situation):
    """Kill a process before *number* of its statements, spread evenly over all."""
    count = bench.root.with_name("count")
    work = situation(bench)
    check(ended(forked(lambda: traced(work, 0, count))) == 0, "it fails by itself")
    total = int(count.read_text())
    points = sorted(
        {1 + index * (total - 1) // (number - 1) for index in range(number)}
    )
    outcomes, failures = Counter(), []
    for point in points:
        work = situation(bench)
        child = forked(lambda work=work, point=point: traced(work, point, count))
        try:
            if ended(child) == -signal.SIGKILL:
                outcomes["killed"] += 1
            outcomes[aftermath(bench)] += 1
        except AssertionError as error:
            failures.append(f"statement {point} of {total}: {error}")
    return {"statements": total, "outcomes": outcomes, "failures": failures}


# --------------------------------------------------------------------- at random times


def at_random_times(bench, number):
    """Kill a process at random moments of a slow build."""
    chance = random.Random(5)
    bench.pause_s = 0.002
    nothing_there(bench)
    started = time.monotonic()
    bench.obtain()
    longest_s = 1.1 * (time.monotonic() - started)
    outcomes, failures = Counter(), []
    for _ in range(number):
        nothing_there(bench)
        child = forked(bench.obtain)
        moment = chance.uniform(0, longest_s)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        try:
            if ended(child) == -signal.SIGKILL:
                outcomes["killed"] += 1
            outcomes[aftermath(bench)] += 1
        except AssertionError as error:
            failures.append(f"after {moment:.4f} s: {error}")
    return {"outcomes": outcomes, "failures": failures}


# ---------------------------------------------------------------------------- no room


def with_file_limit(bench, number):
    """Build under growing limits for the length of a file."""

    def work(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return refused(bench)

    longest = max(map(len, expected(bench.spec).values()))
    # A manifest is longer than any of these engines' files.
    limits = [index * 4 * longest // (number - 1) for index in range(number)]
    return without_room(bench, limits, work)


def on_full_disk(bench, number):
    """Build with a growing number of free blocks; the folder is a disk of its own."""
    folder = bench.root.parent
    block = os.statvfs(folder).f_frsize

    def work(blocks):
        disk = os.statvfs(folder)
        (folder / "fill").write_bytes(bytes(block * (disk.f_bavail - blocks)))
        return refused(bench)

    return without_room(bench, range(number), work)


def refused(bench):
    """Whether a build fails, which must leave nothing behind."""
    try:
        bench.obtain()
    except EngineBuildError as error:
        check("UNILLM_CACHE" in str(error), f"no advice: {error}")
        check(not bench.folder.entries(), "an entry of a failed build")
        check(not bench.folder.unfinished(), "leftovers of a failed build")
        return True
    return False


def without_room(bench, rooms, work):
    outcomes, failures = Counter(), []
    for room in rooms:
        bench.clear()
        (bench.root.parent / "fill").unlink(missing_ok=True)
        status = ended(forked(lambda room=room: sys.exit(2 * work(room))))
        (bench.root.parent / "fill").unlink(missing_ok=True)
        bench.log.unlink(missing_ok=True)  # half a line of it may be all that fitted
        outcomes[{0: "built", 2: "refused"}.get(status, status)] += 1
        try:
            check(status in (0, 2), f"status {status}")
            aftermath(bench)
        except AssertionError as error:
            failures.append(f"with room for {room}: {error}")
    return {"outcomes": outcomes, "failures": failures}


# ------------------------------------------------------------------------------- crowds


def crowd(bench, number, *, kill):
    """Let processes ask for the same engine at once, round after round.

    Args:
        bench: Their cache.
        number: Rounds.
        kill: Kill the process that builds in the middle.
    """
    expected_statuses = [-signal.SIGKILL] * kill + [0] * (PROCESSES - kill)
    outcomes, failures = Counter(), []
    bench.pause_s = 0.005
    bench.clear()
    for each in range(number):
        spec = attrs.evolve(bench.spec, flags={"round": each})
        gate, opener = os.pipe()

        def work(spec=spec, gate=gate, opener=opener):
            os.close(opener)
            os.read(gate, 1)  # until the other end is closed
            bench.obtain(spec)

        before = bench.num_builds()
        children = [forked(work) for _ in range(PROCESSES)]
        os.close(gate)
        os.close(opener)
        if kill:
            lock = bench.folder.build_lock(spec.key)
            while bench.num_builds() == before or lock.owner() is None:
                time.sleep(0.001)
            os.kill(lock.owner().pid, signal.SIGKILL)
        statuses = sorted(map(ended, children))
        outcomes[f"{bench.num_builds() - before} builds"] += 1
        if statuses != expected_statuses:
            failures.append(f"round {each}: a process got no engine")
    return {"outcomes": outcomes, "failures": failures}


KINDS = {
    "nothing-there": lambda *given: at_statements(*given, nothing_there),
    "all-damaged": lambda *given: at_statements(*given, all_damaged),
    "left-by-others": lambda *given: at_statements(*given, left_by_others),
    "pruned": lambda *given: at_statements(*given, pruned),
    "random-times": at_random_times,
    "file-limit": with_file_limit,
    "full-disk": on_full_disk,
    "crowd": lambda *given: crowd(*given, kill=False),
    "crowd-killed": lambda *given: crowd(*given, kill=True),
}

if __name__ == "__main__":
    logging.disable()
    _, kind, folder, number = sys.argv
    json.dump(KINDS[kind](Bench(Path(folder)), int(number)), sys.stdout)
