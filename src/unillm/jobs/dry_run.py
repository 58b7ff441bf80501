# SPDX-License-Identifier: Apache-2.0

"""`dry_run`: what a job would take, by its tokens and a measured sample."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import attrs

from .arguments import Arguments
from .forms import BadLineError, Form, Naming, Record
from .job import Job
from .line import Line
from .worker import LocalWorker

MAX_SAMPLE = 256
"""Lines of the sample at most. It fills the engine's slots twice if these allow."""

_SHOWN = 5
_NAMING = Naming(key=b"dry run", created=0)


@attrs.define(kw_only=True)
class DryRun:
    """The size and the time of a job."""

    num_lines: int = 0
    num_refused: int = 0
    """Lines that would fail at once: bad ones, and those that do not fit."""
    refused: list[str] = attrs.field(factory=list)
    """Places and reasons of the first of them."""
    num_prompt_tokens: int = 0
    """Tokens of all other lines."""
    longest_prompt: int = 0
    """Tokens of the longest prompt, whether it fits or not."""
    longest_place: str = ""
    max_prompt_tokens: int = 0
    """The longest prompt that fits."""
    num_sampled: int = 0
    """Lines that were answered for the estimate."""
    sample_seconds: float = 0.0
    sample_new_tokens: int = 0
    estimated_seconds: float = 0.0
    """Time of the whole job, without loading the model, if its lines are like the
    sample's."""
    estimated_new_tokens: int = 0


def dry_run(arguments: Arguments, worker: LocalWorker) -> DryRun:
    """Count the tokens of all lines, and answer a sample of them.

    Args:
        arguments: Those of `run_batch`.
        worker: Opened and closed here.

    Raises:
        BatchInputError: A file cannot be read, or two lines have one id.
        EngineError: The engine died.
    """
    with tempfile.TemporaryDirectory() as work:
        form, _ = Job(arguments).open_input(Path(work))
        return _count(form, worker)


def _count(form: Form, worker: LocalWorker) -> DryRun:
    found, sample, rng = DryRun(), list[Line](), random.Random(0)
    worker.open()
    try:
        limits = worker.generator.limits
        found.max_prompt_tokens = worker.max_prompt_tokens
        size = min(MAX_SAMPLE, 2 * limits.max_num_seqs)
        good = 0
        for record in form.records():
            found.num_lines += 1
            line = _checked(form, worker, record, found)
            if line is None:
                continue
            good += 1
            # Each good line is in the sample with the same probability.
            if len(sample) < size:
                sample.append(line)
            elif (place := rng.randrange(good)) < size:
                sample[place] = line
        _measure(worker, sample, good, found)
    finally:
        worker.close()
    return found


def _checked(
    form: Form, worker: LocalWorker, record: Record, found: DryRun
) -> Line | None:
    """Count the tokens of a line; return `None` for one that would fail at once."""
    try:
        line = form.line(record, _NAMING)
    except BadLineError as error:
        _refuse(found, record, str(error))
        return None
    counts, reason = worker.count_tokens(line)
    longest = max(counts, default=0)
    if longest > found.longest_prompt:
        found.longest_prompt, found.longest_place = longest, record.place
    if reason is not None:
        _refuse(found, record, reason)
        return None
    found.num_prompt_tokens += sum(counts)
    return line


def _refuse(found: DryRun, record: Record, reason: str) -> None:
    found.num_refused += 1
    if len(found.refused) < _SHOWN:
        found.refused.append(f"{record.place}: {reason}")


def _measure(worker: LocalWorker, sample: list[Line], good: int, found: DryRun) -> None:
    begun, left = time.monotonic(), len(sample)
    for line in sample:
        worker.submit(line)
    while left:
        answers = worker.answers(None)
        left -= len(answers)
        found.sample_new_tokens += sum(each.num_new_tokens for each in answers)
    if sample:
        found.num_sampled = len(sample)
        found.sample_seconds = time.monotonic() - begun
        share = good / len(sample)
        found.estimated_seconds = found.sample_seconds * share
        found.estimated_new_tokens = round(found.sample_new_tokens * share)
