# SPDX-License-Identifier: Apache-2.0

"""Load and faults, over an engine that follows a script.

The engine has one slot. A request that kept it would never end, so a later one that
ends shows that the slot was freed.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from scripted_server import DEADLY, FAILING, token
from server_process import SCRIPTED, events, scripted, start

ENDLESS = {"prompt": [50, 51], "max_tokens": 90_000, "ignore_eos": True}
SHORT = {"prompt": [60, 61], "max_tokens": 3, "return_token_ids": True}
EXPECTED = [token([60, 61], position) for position in range(3)]


@pytest.fixture(scope="module")
def narrow():
    """A server of one slot, whose queue takes two requests."""
    with scripted(
        *("--max-num-seqs", "1", "--max-num-queued-reqs", "2"),
        *("--option", "step_s=0.005", "--option", "first_step_s=0.2"),
        *("--max-body-bytes", "1000", "--sse-keep-alive-interval", "0.05"),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def mended():
    """A server that makes a dead engine anew; it may still be loading."""
    with scripted("--restart-engine", "--option", "load_s=1.5", ready=False) as server:
        yield server


@pytest.fixture
def connect():
    """Send a request on a socket of its own, so that a test can leave in any state."""
    with contextlib.ExitStack() as stack:

        def connect(*args, **options):
            connection = Connection(*args, **options)
            stack.callback(connection.leave)
            return connection

        yield connect


class Connection:
    """A request on a socket."""

    def __init__(self, server, body, path="/v1/completions", *, send=None):
        host, port = server.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(30)
        raw = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n"
        )
        self.socket.sendall((head.encode() + raw)[:send])

    def read_until(self, text):
        found = b""
        while text not in found:
            part = self.socket.recv(65536)
            assert part, found
            found += part
        return found

    def leave(self):
        self.socket.close()


def serves(server):
    """Whether a short request ends, and with its own tokens."""
    answer = server.post("/v1/completions", **SHORT)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"] == EXPECTED


def wait_until_healthy(server):
    deadline = time.monotonic() + 60
    while server.client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def load_of(server):
    lines = server.client.get("/metrics").text.splitlines()
    found = {}
    for name in ("num_requests_running", "num_requests_waiting"):
        [line] = [each for each in lines if each.startswith(f"unillm:{name}{{")]
        found[name.rpartition("_")[2]] = float(line.split()[-1])
    return found["running"], found["waiting"]


def wait_for(server, running, waiting):
    deadline = time.monotonic() + 20
    while load_of(server) != (running, waiting):
        assert time.monotonic() < deadline, load_of(server)
        time.sleep(0.01)


def test_a_server_says_that_it_is_loading(mended):
    health = mended.client.get("/health")
    answer = mended.post("/v1/completions", **SHORT)

    for refused in (health, answer):
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "loading"
        assert refused.headers["retry-after"] == "1"
    assert mended.client.get("/v1/models").status_code == 200
    assert mended.client.get("/metrics").status_code == 200


# --------------------------------------------------------------------- clients leave


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "body"])
def test_a_client_that_leaves_in_decode_frees_its_slot(narrow, connect, stream):
    connection = connect(narrow, {**ENDLESS, "stream": stream})
    wait_for(narrow, 1, 0)

    connection.leave()
    left = time.monotonic()

    wait_for(narrow, 0, 0)
    assert time.monotonic() - left < 1
    assert serves(narrow)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "body"])
def test_a_client_that_leaves_in_prefill_frees_its_slot(narrow, connect, stream):
    connection = connect(narrow, {**ENDLESS, "stream": stream})
    wait_for(narrow, 0, 1)  # the first step takes 0.2 s

    connection.leave()

    wait_for(narrow, 0, 0)
    assert serves(narrow)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "body"])
def test_a_client_that_leaves_the_queue_never_takes_a_slot(narrow, connect, stream):
    first = connect(narrow, {**ENDLESS, "stream": True})
    wait_for(narrow, 1, 0)
    second = connect(narrow, {**ENDLESS, "stream": stream})
    wait_for(narrow, 1, 1)

    second.leave()

    wait_for(narrow, 1, 0)
    first.leave()
    assert serves(narrow)


def test_a_half_sent_body_costs_no_slot(narrow, connect):
    half = connect(narrow, ENDLESS, send=150)
    assert load_of(narrow) == (0, 0)
    assert serves(narrow)

    half.leave()

    assert serves(narrow)


def test_a_client_that_reads_nothing_holds_up_no_other(mended, connect):
    wait_until_healthy(mended)
    lazy = connect(mended, {**ENDLESS, "max_tokens": 30_000, "stream": True})
    deadline = time.monotonic() + 60

    assert serves(mended)
    while load_of(mended) != (0, 0):  # it ends though nothing is read
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert b"[DONE]" in lazy.read_until(b"[DONE]")


# ----------------------------------------------------------------------------- limits


def test_a_full_queue_is_429_with_retry_after(narrow, connect):
    first = connect(narrow, {**ENDLESS, "stream": True})
    wait_for(narrow, 1, 0)
    waiting = [connect(narrow, ENDLESS) for _ in range(2)]
    wait_for(narrow, 1, 2)

    answer = narrow.post("/v1/completions", **SHORT)
    streamed = narrow.post("/v1/completions", **SHORT, stream=True)

    for refused in (answer, streamed):
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
    for connection in [first, *waiting]:
        connection.leave()
    wait_for(narrow, 0, 0)


def test_of_several_prompts_all_are_queued_or_none(narrow, connect):
    first = connect(narrow, {**ENDLESS, "stream": True})
    wait_for(narrow, 1, 0)

    answer = narrow.post("/v1/completions", **SHORT | {"prompt": [[60, 61]] * 3})

    assert answer.status_code == 429
    wait_for(narrow, 1, 0)
    first.leave()
    assert serves(narrow)


def test_a_body_over_the_limit_is_413(narrow):
    announced = narrow.post("/v1/completions", prompt="x" * 2000)
    parts = (b"x" * 400 for _ in range(5))
    chunked = narrow.client.post(
        "/v1/completions",
        content=parts,
        headers={"content-type": "application/json"},
    )

    assert announced.status_code == chunked.status_code == 413
    assert serves(narrow)


def test_quiet_streams_send_comments(narrow):
    body = {**SHORT, "stream": True}
    with narrow.client.stream("POST", "/v1/completions", json=body) as answer:
        lines = list(answer.iter_lines())

    assert 2 <= lines.count(": keep-alive") <= 4  # the first step takes 0.2 s
    assert lines[-2:] == ["data: [DONE]", ""]


# ---------------------------------------------------------------------------- failures


def test_a_dead_engine_fails_its_streams_in_form_and_is_made_anew(mended, connect):
    for _ in range(2):
        wait_until_healthy(mended)
        connection = connect(mended, {**ENDLESS, "stream": True})
        connection.read_until(b'"index":0')

        killed = mended.post("/v1/completions", prompt=DEADLY)

        text = connection.read_until(b"[DONE]").decode()
        [error] = [line for line in text.splitlines() if '"error"' in line]
        assert json.loads(error[6:])["error"]["code"] == "engine_dead"
        assert '"finish_reason":"' not in text
        assert killed.status_code == 503
        assert mended.client.get("/health").status_code == 503
    wait_until_healthy(mended)
    assert serves(mended)
    assert 'restarts_total{model_name="unillm/tiny"} 2.0' in (
        mended.client.get("/metrics").text
    )


def test_a_dead_engine_stays_dead_by_default():
    with scripted() as server:
        server.post("/v1/completions", prompt=DEADLY)

        health = server.client.get("/health")
        answer = server.post("/v1/completions", **SHORT)

        for refused in (health, answer):
            assert refused.status_code == 503
            assert refused.json()["error"]["type"] == "server_error"
        server.terminate()
        assert server.wait() == 0


def test_a_request_that_fails_alone_is_an_error_of_its_own(narrow):
    body = {"prompt": FAILING, "max_tokens": 3}

    answer = narrow.post("/v1/completions", **body)
    with narrow.client.stream(
        "POST", "/v1/completions", json={**body, "stream": True}
    ) as streamed:
        failed, done = events(streamed)

    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert "this request is bad" in answer.json()["error"]["message"]
    assert json.loads(failed)["error"]["code"] == "request_failed"
    assert done == "[DONE]"
    assert serves(narrow)


# ---------------------------------------------------------------------------- the end


def test_sigterm_lets_requests_finish():
    with scripted("--option", "step_s=0.02", ready=True) as server:
        body = {**ENDLESS, "max_tokens": 50, "stream": True}
        with (
            ThreadPoolExecutor() as pool,
            server.client.stream("POST", "/v1/completions", json=body) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            whole = pool.submit(
                server.post, "/v1/completions", **ENDLESS | {"max_tokens": 40}
            )
            wait_for(server, 2, 0)
            server.terminate()
            *_, last, done, _ = lines, *list(lines)
            assert done == "data: [DONE]"
            assert "length" in str(last) or last == ""
            assert whole.result().status_code == 200
        assert server.wait() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)


def test_requests_fail_in_form_when_the_time_to_finish_is_over(connect):
    with scripted("--option", "step_s=0.01", "--shutdown-timeout", "0.5") as server:
        connection = connect(server, {**ENDLESS, "stream": True})
        connection.read_until(b'"index":0')

        server.terminate()
        began = time.monotonic()

        text = connection.read_until(b"[DONE]")
        assert 0.4 < time.monotonic() - began < 3
        assert b'"code":"shutting_down"' in text
        assert server.wait() == 0


def test_a_second_signal_ends_requests_at_once(connect):
    with scripted("--option", "step_s=0.01") as server:
        connection = connect(server, {**ENDLESS, "stream": True})
        connection.read_until(b'"index":0')

        server.terminate(signal.SIGINT)
        time.sleep(0.3)
        server.terminate(signal.SIGINT)

        assert b"shutting_down" in connection.read_until(b"[DONE]")
        assert server.wait() == 0


def test_a_model_that_cannot_be_loaded_ends_the_server():
    with contextlib.ExitStack() as stack:
        server = start("/nonexistent/model", ready=False)
        stack.callback(server.client.close)

        assert server.wait() == 3
        assert "error: " in server.log()


def test_a_taken_port_is_said_in_one_line(narrow):
    port = narrow.url.rpartition(":")[2]

    server = None
    with pytest.raises(AssertionError, match="address already in use") as caught:
        server = start("--port", port, program=SCRIPTED, ready=False)

    assert server is None
    assert "Traceback" not in str(caught.value)
