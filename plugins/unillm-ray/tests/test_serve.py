# SPDX-License-Identifier: Apache-2.0

"""Ray Serve with the bundled model."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
import unillm_ray
from fragile_engine import DIES
from questions import GREEDY, TINY
from ray import serve

from unillm.errors import ConfigError
from unillm.server.settings import ServerSettings
from unillm.server.shadow import ShadowSettings

URL = "http://127.0.0.1:8123"
BODY = {"prompt": "Count from 3 to 9:", "temperature": 0, "max_tokens": 60}


@pytest.fixture(scope="module")
def served(cluster):
    serve.start(proxy_location="HeadOnly", http_options={"port": 8123})
    yield
    serve.shutdown()


SURGE = {"max_surge_percent": 100}
"""New replicas start before old ones leave."""


def run(name, **options):
    """Serve the model as *name*."""
    settings = ServerSettings(served_model_name=(name,))
    deployment = unillm_ray.deployment("unillm/tiny", settings=settings, **TINY)
    serve.run(deployment.options(**options).bind(), name="unillm")


class Load:
    """Clients that ask for completions until they are stopped.

    Attributes:
        models: The model of each answer, in order.
        failures: Answers that are not the expected one.
    """

    def __init__(self, clients, text):
        self.models, self.failures = [], []
        self._text, self._ended = text, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count):
        goal = len(self.models) + count
        while len(self.models) < goal and not self.failures:
            time.sleep(0.05)

    def _ask(self):
        with httpx.Client(base_url=URL, timeout=120) as client:
            while not self._ended.is_set():
                self._ask_once(client)

    def _ask_once(self, client):
        try:
            answer = client.post("/v1/completions", json=BODY)
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body["choices"][0]["text"] == self._text, body
            self.models.append(body["model"])
        except (httpx.HTTPError, ValueError, AssertionError) as error:
            self.failures.append(repr(error))


def test_streams_and_errors_are_those_of_unillm_serve(served):
    run("first", **SURGE)
    with httpx.Client(base_url=URL, timeout=120) as client:
        with client.stream(
            "POST", "/v1/completions", json={**BODY, "stream": True}
        ) as r:
            lines = [line for line in r.iter_lines() if line]
        refused = client.post("/v1/completions", json={**BODY, "max_tokens": -3})

    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 5
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "max_tokens"


@pytest.mark.parametrize(
    "options", [SURGE, pytest.param({"num_replicas": 2}, marks=pytest.mark.long)]
)
def test_a_rolling_update_under_load_fails_no_request(served, generator, options):
    text = generator.generate(BODY["prompt"], GREEDY)[0].text
    run("first", **options)

    with Load(4, text) as load:
        load.wait_for(20)
        run("second", **options)
        load.wait_for(20)

    assert load.failures == []
    assert load.models[0] == "first"
    assert load.models[-1] == "second"


@pytest.mark.long
def test_a_replica_whose_engine_died_is_replaced(served):
    deployment = unillm_ray.deployment("unillm/tiny", backend="fragile")
    serve.run(deployment.options(health_check_period_s=1).bind(), name="unillm")
    with httpx.Client(base_url=URL, timeout=120) as client:
        failed = client.post("/v1/completions", json={"prompt": [DIES]})
        until = time.monotonic() + 120
        while client.post("/v1/completions", json={"prompt": [9]}).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.2)

    assert failed.status_code == 503


def test_settings_that_ray_has_itself_are_refused():
    shadow = ServerSettings(shadow=ShadowSettings(backend="vllm", share=0.1))
    with pytest.raises(ConfigError, match="no resources of its own"):
        unillm_ray.deployment("unillm/tiny", settings=shadow)
    with pytest.raises(ConfigError, match="Ray replaces a replica"):
        unillm_ray.deployment(
            "unillm/tiny", settings=ServerSettings(restart_engine=True)
        )
