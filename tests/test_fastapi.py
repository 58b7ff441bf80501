# SPDX-License-Identifier: Apache-2.0

"""The program of ``docs/how-to/fastapi.md``, with the client of its framework."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from unillm import Generator, SamplingParams
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

pytest.importorskip("fastapi", reason="the how-to is for applications on FastAPI")
from fastapi.testclient import TestClient

PROGRAM = Path(__file__).parents[1] / "docs" / "how-to" / "fastapi_app.py"


@pytest.fixture(scope="module")
def program():
    spec = spec_from_file_location("fastapi_app", PROGRAM)
    module = module_from_spec(spec)
    sys.modules["fastapi_app"] = module  # where pydantic looks for the classes
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fastapi_app"]


@pytest.fixture(scope="module")
def client(program):
    with TestClient(program.app) as client:
        yield client


def test_an_answer_is_whole(client):
    answer = client.post("/answer", json={"text": "Add 17 and 25:"})

    assert answer.json() == {"text": "42", "finish_reason": "stop"}


def test_a_stream_has_the_whole_text(client):
    answer = client.post("/stream", json={"text": "Count from 3 to 9:"})

    assert answer.text == "3 4 5 6 7 8 9"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_answer_of_a_class_has_its_fields(client):
    answer = client.post("/sum", json={"text": "Add 17 and 25:"})

    assert answer.json().keys() == {"sum"}


@pytest.mark.parametrize("path", ["/answer", "/stream", "/sum"])
@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": "word " * 2000}, 400, "tokens"),
        ({"text": "a", "max_tokens": 0}, 422, "greater than or equal to 1"),
    ],
)
def test_a_wrong_request_has_a_status(client, path, body, status, says):
    answer = client.post(path, json=body)

    assert (answer.status_code, says in answer.text) == (status, True)


# ---------------------------------------------------------- a busy engine without an end


ENDLESS = SamplingParams(max_tokens=90_000, ignore_eos=True)


def slow_token(request, n):
    time.sleep(0.001)
    return 65


def endless(config):
    return ScriptedEngine(
        slow_token, max_model_len=100_000, vocab_size=512, max_num_seqs=1
    )


@pytest.fixture
def busy(program, monkeypatch):
    """The application over a generator whose answers have no end."""
    with (
        plugged(ScriptedBackend(endless, name="busy")),
        Generator("unillm/tiny", backend="busy", max_queued_requests=1) as generator,
    ):
        monkeypatch.setattr(program.app.state, "generator", generator, raising=False)
        yield program.app, generator


async def leave(app, path: str) -> list[dict]:
    """Send a request, leave after a moment, and return what came until then."""
    body = json.dumps({"text": "a", "max_tokens": 90_000}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []
    gone = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, gone.set)

    async def receive():
        if messages:
            return messages.pop()
        if not gone.is_set():
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    await asyncio.wait_for(app(scope, receive, send), 20)
    return sent


@pytest.mark.parametrize("path", ["/answer", "/stream"])
def test_the_request_of_a_client_that_leaves_is_cancelled(busy, path):
    app, generator = busy

    asyncio.run(leave(app, path))

    until = time.monotonic() + 10
    while generator.stats()["live"]:
        assert time.monotonic() < until, generator.stats()
        time.sleep(0.01)
    assert generator.stats()["cancelled"] == 1


@pytest.mark.parametrize("path", ["/answer", "/stream"])
def test_a_full_queue_is_a_status_of_its_own(busy, path):
    app, generator = busy
    kept = [generator.stream("a", ENDLESS)]
    next(kept[0])  # it is computed
    kept.append(generator.stream("a", ENDLESS))  # waits, as the only one that may

    answer = TestClient(app, raise_server_exceptions=False).post(
        path, json={"text": "a"}
    )

    assert answer.status_code == 429
    assert "queue is full" in answer.json()["error"]
