# SPDX-License-Identifier: Apache-2.0

"""A server that lies over HTTP, and one that does not, as sides of a measurement."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs
import pytest

from unillm.bench.client import ServerLoad, opened
from unillm.bench.figures import Round, figures_of
from unillm.bench.tokens import Counting
from unillm.bench.verdicts import Evidence, reasons
from unillm.bench.workloads import Ask, Case
from unillm.errors import ConfigError

CASE = Case(kind="batch", size=4, requests=4)
ASKS = [Ask(prompt=[10 + n] * 6, max_tokens=12) for n in range(4)]
MODELS = {"data": [{"id": "m", "max_model_len": 64, "owned_by": "test"}]}


class Handler(BaseHTTPRequestHandler):
    """Streams one token an event; `lie` says what else."""

    protocol_version = "HTTP/1.1"
    lie = None
    key = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self._refuses():
            self._send(json.dumps(MODELS).encode(), "application/json")

    def _refuses(self):
        given = self.headers["Authorization"]
        if self.key is None or given == f"Bearer {self.key}":
            return False
        self.send_error(401, f"not {given}")
        return True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refuses():
            return
        if self.lie == "refuses" and body["max_tokens"] > 1:
            self.send_error(503, "busy")
            return
        self.send_response(200)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in self._events(body):
            data = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def _events(self, body):
        count, prompt = body["max_tokens"], body["prompt"]
        ids = [
            (100 + prompt[0] * 7 + n) if prompt != "Hello" else 5 for n in range(count)
        ]
        seen = prompt[1:] if self.lie == "cuts the prompt" else prompt
        for number, token in enumerate(ids):
            if self.lie == "sends an empty chunk first" and not number:
                yield {"choices": [{"text": "", "token_ids": []}]}
            time.sleep(0.002)
            choice = {"text": "x", "token_ids": [token]}
            if self.lie == "gives no ids":
                del choice["token_ids"]
            else:
                choice |= {} if number else {"prompt_token_ids": seen}
            choice["finish_reason"] = "length" if number == count - 1 else None
            yield {"choices": [choice]}
        claimed = count * 2 if self.lie == "counts double" else count
        usage = {"prompt_tokens": len(seen), "completion_tokens": claimed}
        if self.lie == "has a cache":
            usage["prompt_tokens_details"] = {"cached_tokens": 4}
        yield {"choices": [], "usage": usage}
        yield "[DONE]"

    def _send(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving(lie, **fields):
    handler = type("Lying", (Handler,), {"lie": lie, **fields})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def judged(lie, case=CASE):
    """One round, and the checks that it fails."""
    with serving(lie) as url, opened(url, "m") as (load, ready):
        assert (ready.backend, ready.max_model_len) == ("m", 64)
        run = load.run(case, ASKS)
    # How busy the client is depends on the machine.
    run = attrs.evolve(run, client_cpu_s=0.0)
    rounds = [Round(run=run, asks=ASKS, floor=None)]
    evidence = Evidence(
        case=case,
        rounds=rounds,
        figures=figures_of(case, rounds, Counting(), None),
        counting=Counting(),
        probes=(),
        fresh=True,
    )
    return run, [reason.check for reason in reasons(evidence)]


def test_a_stream_has_its_ids_and_times():
    run, failed = judged(None)

    assert failed == []
    for number, sample in enumerate(run.samples):
        first = 100 + (10 + number) * 7
        assert sample.token_ids == list(range(first, first + 12))
        assert (sample.reported_tokens, sample.num_prompt_tokens) == (12, 6)
        assert sample.same_prompt is True
        assert sample.sent_s <= sample.first_s < sample.last_s <= run.seconds
        assert len(sample.gaps) == 11


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("counts double", "wrong count"),
        ("cuts the prompt", "other prompt"),
        ("has a cache", "prompts from a cache"),
        ("refuses", "failed request"),
    ],
)
def test_a_lie_of_a_server_is_marked_invalid(lie, check):
    assert check in judged(lie)[1]


def test_an_empty_chunk_is_not_the_first_token():
    run, failed = judged("sends an empty chunk first")

    assert failed == []
    assert all(len(sample.gaps) == 11 for sample in run.samples)


def test_a_server_without_ids_is_counted_by_its_own_count():
    run, failed = judged("gives no ids")

    assert failed == []
    assert [sample.token_ids for sample in run.samples] == [None] * 4
    assert Counting().total(run.samples) == 48


def test_only_so_many_requests_are_in_flight():
    run, failed = judged(None, Case(kind="closed", size=1, requests=4))

    assert failed == []
    spans = sorted((sample.sent_s, sample.last_s) for sample in run.samples)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_another_model_is_refused_by_the_names_of_the_served(names):
    models = json.dumps({"data": [{"id": name} for name in names]}).encode()
    get = {"do_GET": lambda self: self._send(models, "application/json")}
    refusal = f"does not serve 'm'. It serves: {', '.join(names)}. Give one"

    with (
        serving(None, **get) as url,
        pytest.raises(ConfigError, match=refusal),
        opened(f"{url}/v1", "m"),
    ):
        pass


def test_a_server_gets_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv("UNILLM_REMOTE_API_KEY", "secret\n")

    with serving(None, key="secret") as url, opened(url, "m") as (load, _):
        run = load.run(CASE, ASKS)

    assert [sample.error for sample in run.samples] == [None] * 4


def test_a_wrong_key_is_an_error_that_does_not_show_it(monkeypatch):
    monkeypatch.setenv("UNILLM_REMOTE_API_KEY", "wrong")

    with (
        serving(None, key="secret") as url,
        pytest.raises(ConfigError, match=r"401.*UNILLM_REMOTE_API_KEY") as caught,
        opened(url, "m"),
    ):
        pass
    assert "wrong" not in str(caught.value)
    with serving(None, key="secret") as url:
        [sample] = ServerLoad(url, "m", "wrong").run(CASE, ASKS[:1]).samples
    assert "401" in sample.error
    assert "wrong" not in sample.error


def test_an_address_without_a_server_is_an_error():
    with serving(None) as url:
        pass
    with pytest.raises(ConfigError, match="does not answer"), opened(url, "m"):
        pass
