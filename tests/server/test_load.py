# SPDX-License-Identifier: Apache-2.0

"""Many requests at a time, most of them with a fault, over an engine that dies.

Each token is a function of its own prompt, so an answer that holds another request's
token is found. Each request is answered once, or fails in OpenAI's form.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random

import attrs
import psutil
import pytest
from scripted_server import DEADLY, token
from server_process import scripted

KINDS = ("body", "stream", "several", "leaves", "half", "wrong", "slow")
WEIGHTS = (30, 30, 5, 15, 5, 10, 5)


@attrs.define
class Load:
    """The clients of one server.

    Args:
        url: Address of the server.
        requests: How many.
        connections: At the same time.
    """

    url: str
    requests: int
    connections: int
    seed: int = 0
    outcomes: collections.Counter = attrs.field(factory=collections.Counter)

    async def run(self, while_running=()):
        numbers = iter(range(self.requests))
        clients = [self._client(numbers) for _ in range(self.connections)]
        await asyncio.gather(*clients, *while_running)

    async def _client(self, numbers):
        for number in numbers:
            rng = random.Random(f"{self.seed}-{number}")
            [kind] = rng.choices(KINDS, WEIGHTS)
            outcome = await asyncio.wait_for(self._request(kind, number, rng), 120)
            self.outcomes[kind, outcome] += 1

    async def _request(self, kind, number, rng):
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            prompts = [[20 + number % 400, 20 + number // 400, rng.randrange(20, 400)]]
            if kind == "several":
                prompts = [[*prompts[0], extra] for extra in (30, 31, 32)]
            body = {
                "prompt": prompts if kind == "several" else prompts[0],
                "max_tokens": rng.randrange(1, 12),
                "stream": kind in ("stream", "slow") or rng.random() < 0.3,
                "return_token_ids": True,
                "ignore_eos": True,
            }
            raw = json.dumps(body).encode()
            if kind == "leaves":
                raw = json.dumps({**body, "max_tokens": 50_000}).encode()
            if kind == "wrong":
                raw = rng.choice([b"{", b"[]", b'{"prompt": ""}', b'{"nothing": 1}'])
            head = (
                "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
            ).encode()
            sent = head + raw
            if kind == "half":
                sent = sent[: rng.randrange(1, len(sent) - 1)]
            writer.write(sent)
            await writer.drain()
            if kind in ("leaves", "half"):
                await asyncio.sleep(rng.random() * 0.1)
                return "left"
            if kind == "slow":
                await asyncio.sleep(rng.random() * 0.5)
            answer = await reader.read()
            return check(kind, answer, body, prompts)
        finally:
            writer.close()


def check(kind, answer, body, prompts):
    """Assert that an answer is right for its request; return its status, in short."""
    head, _, content = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if b"chunked" in head.lower():
        content = dechunked(content)
    if status != 200:
        error = json.loads(content)["error"]
        assert error["message"]
        assert status in ((400, 503) if kind == "wrong" else (429, 503)), error
        return str(status)
    assert kind != "wrong"
    ids = collections.defaultdict(list)
    if body["stream"]:
        *events, done = [e for e in content.decode().split("\n\n") if e[:1] == "d"]
        assert done == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        failed = [chunk for chunk in chunks if "error" in chunk]
        choices = [c for chunk in chunks for c in chunk.get("choices", ())]
    else:
        failed, choices = [], json.loads(content)["choices"]
    for choice in choices:
        ids[choice["index"]] += choice["token_ids"]
    for index, prompt in enumerate(prompts):
        count = len(ids[index]) if failed else body["max_tokens"]
        assert ids[index] == [token(prompt, position) for position in range(count)]
    if failed:
        assert failed[0]["error"]["code"] == "engine_dead"
        return "died"
    return "whole"


def dechunked(content):
    found = b""
    while content:
        size, _, rest = content.partition(b"\r\n")
        found, content = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found


async def kill_the_engine(server, times, pause_s):
    for _ in range(times):
        await asyncio.sleep(pause_s)
        await asyncio.to_thread(server.post, "/v1/completions", prompt=DEADLY)


def settled(server):
    """Whether no request is left, and the server serves."""
    text = server.client.get("/metrics").text
    waiting = [line for line in text.splitlines() if "unillm:num_requests_" in line]
    values = [float(line.split()[-1]) for line in waiting if line[0] != "#"]
    return values == [0.0, 0.0] and server.client.get("/health").status_code == 200


def prove(requests, connections, kills):
    with scripted(
        *("--max-num-seqs", "16", "--max-num-queued-reqs", "64", "--restart-engine"),
        *("--option", "step_s=0.002", "--disable-uvicorn-access-log"),
    ) as server:
        process = psutil.Process(server.process.pid)
        warm = Load(server.url, requests // 5, connections, seed=1)
        asyncio.run(warm.run())
        before = process.memory_info().rss, process.num_fds(), process.num_threads()

        load = Load(server.url, requests, connections)
        asyncio.run(load.run([kill_the_engine(server, kills, 2.0)]))

        deadline = 200
        while not settled(server):
            deadline -= 1
            assert deadline, server.log()[-2000:]
            asyncio.run(asyncio.sleep(0.1))
        after = process.memory_info().rss, process.num_fds(), process.num_threads()
        assert server.post("/v1/completions", prompt=[5], max_tokens=1).is_success
        return load.outcomes, before, after


@pytest.mark.parametrize(
    ("requests", "connections", "kills"),
    [
        pytest.param(600, 40, 1, id="short"),
        pytest.param(10_000, 200, 5, id="long", marks=pytest.mark.large),
    ],
)
def test_each_request_is_answered_once_or_fails_in_form(requests, connections, kills):
    outcomes, before, after = prove(requests, connections, kills)

    assert sum(outcomes.values()) == requests
    assert outcomes["body", "whole"] > requests / 20
    assert outcomes["stream", "whole"] > requests / 20
    assert after[0] < before[0] + 40 * 2**20  # memory
    assert after[1] <= before[1] + 5  # descriptors
    assert after[2] <= before[2] + 5  # threads
