# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections import deque

import pytest

from unillm.errors import EngineDeadError, QueueFullError
from unillm.jobs import Answer
from unillm.jobs.folder import JobFolder


class ScriptedWorker:
    """Answers a line with its prompt in capitals; for order and faults alone.

    Args:
        capacity: Lines under way.
        dies_after: Number of answers after which the engine is dead; `None` for never.
        last_first: Whether the lines under way end in reverse.
        identity: Of its answers.
    """

    def __init__(self, *, capacity=4, dies_after=None, last_first=False, identity=None):
        self.identity = identity or {"model": "scripted"}
        self.capacity = capacity
        self.dies_after = dies_after
        self.last_first = last_first
        self.submitted = []
        self.most_under_way = 0
        self.opened = self.closed = 0
        self._under_way = deque()

    def open(self):
        self.opened += 1

    def submit(self, line):
        if len(self._under_way) >= self.capacity:
            raise QueueFullError("the queue is full")
        self.submitted.append(line)
        self._under_way.append(line)
        self.most_under_way = max(self.most_under_way, len(self._under_way))

    def answers(self, timeout_s):
        if timeout_s == 0:
            return []
        if self.dies_after is not None:
            if self.dies_after == 0:
                raise EngineDeadError("the engine died")
            self.dies_after -= 1
        line = self._under_way.pop() if self.last_first else self._under_way.popleft()
        return [answer(line)]

    def stats(self):
        return {"slots": self.capacity, "running": len(self._under_way)}

    def close(self):
        self.closed += 1
        self._under_way.clear()


def answer(line):
    """The answer to a line, by its prompt alone."""
    body = json.loads(line.body)
    prompt = body.get("prompt") or body["messages"][-1]["content"]
    if prompt == "fail":
        error = {"message": "it failed", "type": "server_error"}
        return Answer(line.index, 500, json.dumps({"error": error}).encode())
    text = prompt.upper()
    whole = json.dumps({"id": line.request_id, "text": text, "seed": line.seed})
    if line.is_row:
        return Answer(line.index, 200, b"", text, "stop", 3, 2)
    return Answer(line.index, 200, whole.encode(), None, None, 3, 2)


@pytest.fixture
def scripted():
    return ScriptedWorker


@pytest.fixture
def batch_line():
    """Makes a line of OpenAI's batch format."""

    def make(custom_id, prompt, **fields):
        body = {"messages": [{"role": "user", "content": prompt}], **fields}
        url = "/v1/chat/completions"
        line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
        return json.dumps(line)

    return make


@pytest.fixture
def given(tmp_path):
    """Writes lines to an input file and returns its path."""

    def write(*lines, name="in.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def rows_of():
    """Reads JSON lines."""

    def read(path):
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    return read


@pytest.fixture
def folder_of():
    """Names in the folder of an output's job."""

    def names(output):
        return {path.name for path in JobFolder(output).path.iterdir()}

    return names
