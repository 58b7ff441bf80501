# SPDX-License-Identifier: Apache-2.0

"""Jobs that are killed, and checks that their outputs are those of undisturbed ones.

This is a program, because a process without threads forks children in milliseconds:
``crashes.py KIND FOLDER …``. It prints one JSON object with the number of each outcome.

- ``moments`` kills at random moments, by SIGKILL, SIGTERM or a full disk.
- ``calls`` ends a job before each of its system calls that change a file, once by
  SIGKILL and once by a power cut, after which unsynced bytes are lost or garbage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from unillm import run_batch
from unillm.cli.app import run as run_command
from unillm.errors import BatchStorageError
from unillm.jobs import Answer
from unillm.jobs.folder import JobFolder
from unillm.jobs.journal import INDEX, LINES
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedSlotEngine

PATIENCE_S = 300
STEP_S = 0.03
"""Time of a step: some hundred lines end in a second, so fifty kills find the job at
work."""
CREATED = re.compile(rb'"created":\d+')
"""Time at which a job began; nothing else may differ."""


def check(fact, otherwise):
    if not fact:
        raise AssertionError(otherwise)


# ---------------------------------------------------------------------------- the jobs


class Silent(ScriptedSlotEngine):
    """Its text depends on the prompt alone; it keeps no record of the calls."""

    def __init__(self):
        def script(request, number):
            return 65 + (sum(request.prompt_token_ids) * 31 + number * 7) % 26

        super().__init__(script, num_slots=64, vocab_size=512)

    def prefill(self, chunks):
        self.calls.clear()
        return super().prefill(chunks)

    def decode(self, slots):
        time.sleep(STEP_S)
        return super().decode(slots)


def prompt(number):
    return f"Count from {number} to {number + 5}:"


def write_input(path, lines):
    """Lines with random and with greedy answers, and some that fail."""
    with path.open("w") as stream:
        for number in range(lines):
            body = {
                "messages": [{"role": "user", "content": prompt(number)}],
                "max_tokens": 1 + number % 9,
                "temperature": number % 2,
            }
            if number % 97 == 5:
                body["temperature"] = -1
            if number % 101 == 7:
                stream.write("{broken\n")
                continue
            line = {
                "custom_id": f"request {number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            stream.write(json.dumps(line) + "\n")


class Echo:
    """A worker that answers each line with its seed, at once."""

    identity = {"model": "echo"}
    capacity = 5

    def __init__(self):
        self.lines = []

    def open(self):
        pass

    def submit(self, line):
        self.lines.append(line)

    def answers(self, timeout_s):
        found, self.lines = self.lines, []
        body = b'{"seed":%d}'
        return [Answer(line.index, 200, body % line.seed) for line in found]

    def stats(self):
        return {}

    def close(self):
        pass


def job(args, output):
    """The job, in a child or here."""
    if args.kind == "calls":
        run_batch(args.input, output, Echo(), any_order=args.any_order)
        return
    if args.model_backend != "scripted":
        options = {"backend": args.model_backend, "max_num_seqs": 4}
        run_batch(
            args.input, output, "unillm/tiny", any_order=args.any_order, **options
        )
        return
    with plugged(ScriptedBackend(lambda _: SlotScheduler(Silent()))):
        run_batch(
            args.input,
            output,
            "unillm/tiny",
            any_order=args.any_order,
            backend="scripted",
        )


def command(args, output):
    """The same as a command, which ends the process with its exit code."""
    order = ["--any-order"] if args.any_order else []
    options = ["--backend", args.model_backend, "-o", str(output), *order]
    with plugged(ScriptedBackend(lambda _: SlotScheduler(Silent()))):
        run_command(["batch", str(args.input), "--model", "unillm/tiny", *options])


# ---------------------------------------------------------------------------- children


def forked(work):
    """Start a child that calls *work*; its status is 0 if that returns."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(PATIENCE_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the summary of a command
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BatchStorageError:
        status = 8
    except BaseException:  # noqa: BLE001 - nothing may run the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child):
    """Wait for a child, and return its status or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def has_ended(child):
    """Whether a child has ended, which stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def lines_of(path, *, any_order):
    """The lines of an output but for the time at which its job began."""
    lines = CREATED.sub(b'"created":0', path.read_bytes()).splitlines(keepends=True)
    return sorted(lines) if any_order else lines


def same(args, output, whole):
    """Check an output and what its job has left beside it."""
    found = lines_of(output, any_order=args.any_order)
    check(len(found) == args.lines, f"{len(found)} lines of output")
    check(found == whole, "an output differs from that of an undisturbed job")
    left = {path.name for path in JobFolder(output).path.iterdir()}
    check(left <= {"lock", "job.json", LINES, INDEX}, f"leftovers: {left}")


# -------------------------------------------------------------------------- at moments


def done_lines(output):
    try:
        return (JobFolder(output).path / INDEX).stat().st_size // 24
    except FileNotFoundError:
        return 0


def disturb(args, output, rng, outcomes):
    """Start the job and end it at a random moment."""
    kind = rng.choice(args.faults)
    if kind == "full":
        journal = JobFolder(output).path / LINES
        size = journal.stat().st_size if journal.exists() else 0
        limit = size + rng.randrange(200_000)

        def starved():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the call fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            command(args, output)

        code = ended(forked(starved))
        check(code in (0, 1, 8), f"a full disk ends a job with {code}")
        outcomes["full" if code == 8 else "finished"] += 1
        return
    child = forked(lambda: command(args, output))
    # Some die while they start, most while lines end.
    wanted = done_lines(output) + (rng.random() < 0.8)
    give_up = time.monotonic() + PATIENCE_S
    while done_lines(output) < wanted and not has_ended(child):
        check(time.monotonic() < give_up, "a job hangs")
        time.sleep(0.001)
    time.sleep(rng.random() / 4)
    os.kill(child, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
    code = ended(child)
    if kind == "kill":
        check(code in (-signal.SIGKILL, 0, 1), f"a killed job ends with {code}")
    else:
        # Before the command has its handler, the signal ends the process.
        check(code in (143, -signal.SIGTERM, 0, 1), f"SIGTERM ends a job with {code}")
    outcomes["finished" if code in (0, 1) else kind] += 1


def at_moments(args):
    """Disturb one job many times, and compare its output with an undisturbed one."""
    write_input(args.input, args.lines)
    whole, output = args.folder / "whole.jsonl", args.folder / "output.jsonl"
    check(ended(forked(lambda: job(args, whole))) == 0, "the undisturbed job failed")
    expected = lines_of(whole, any_order=args.any_order)
    rng, outcomes, progress = random.Random(args.seed), Counter(), []
    for _ in range(args.times):
        disturb(args, output, rng, outcomes)
        progress.append(done_lines(output))
    check(ended(forked(lambda: job(args, output))) == 0, "the last run failed")
    same(args, output, expected)
    return {"outcomes": outcomes, "progress": progress}


# ---------------------------------------------------------------------------- at calls


class Calls:
    """Counts calls that change files, ends the process before one of them, and notes
    what is synced."""

    NAMES = ("write", "fsync", "fdatasync", "ftruncate", "replace", "rename", "unlink")

    def __init__(self, folder, end_at):
        self.folder = folder
        self.end_at = end_at
        self.count = 0
        self.lock = threading.Lock()
        self.synced = {}
        for name in self.NAMES:
            setattr(os, name, self.counted(getattr(os, name), name))

    def counted(self, call, name):
        def counted(*arguments, **options):
            with self.lock:
                self.count += 1
                if self.count == self.end_at:
                    note = json.dumps({"synced": self.synced, "at": name})
                    (self.folder / "note").write_text(note)
                    os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **options)
            if name in ("fsync", "fdatasync"):
                path = Path(f"/proc/self/fd/{arguments[0]}").readlink()
                self.synced[str(path)] = os.fstat(arguments[0]).st_size
            return result

        return counted


def cut_power(folder, synced, rng):
    """Take from the journal what was not synced, or make it garbage."""
    for name in (LINES, INDEX):
        path = folder / name
        if not path.exists():
            continue
        content = path.read_bytes()
        safe = min(synced.get(str(path), 0), len(content))
        rest = content[safe:]
        kept = rest[: rng.randrange(len(rest) + 1)]
        if rng.random() < 0.5:
            kept += bytes(rng.randrange(100))
        path.write_bytes(content[:safe] + kept)


def at_calls(args):
    """End a job before each of its calls that change a file."""
    write_input(args.input, args.lines)
    whole = args.folder / "whole.jsonl"
    check(ended(forked(lambda: job(args, whole))) == 0, "the undisturbed job failed")
    expected = lines_of(whole, any_order=args.any_order)
    rng, outcomes = random.Random(args.seed), Counter()
    for power_cut in (False, True):
        for end_at in range(1, 10_000):
            output = args.folder / f"output-{power_cut:d}-{end_at}.jsonl"

            def work(output=output, end_at=end_at):
                Calls(args.folder, end_at)
                job(args, output)

            code = ended(forked(work))
            if code == 0:
                break
            check(code == -signal.SIGKILL, f"a job ended with {code}")
            note = json.loads((args.folder / "note").read_text())
            outcomes[note["at"]] += 1
            if power_cut:
                cut_power(JobFolder(output).path, note["synced"], rng)
            again = forked(lambda output=output: job(args, output))
            check(ended(again) == 0, f"no job goes on after {note}, {end_at}")
            same(args, output, expected)
    return {"outcomes": outcomes}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("moments", "calls"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--faults", nargs="+", default=["kill"])
    parser.add_argument("--model-backend", default="scripted")
    parser.add_argument("--any-order", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.input = args.folder / "input.jsonl"
    found = at_moments(args) if args.kind == "moments" else at_calls(args)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
