# SPDX-License-Identifier: Apache-2.0

"""`/metrics` counts what clients have asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).parents[2] / "docs/deploy/grafana.json"
PROMPT = "Count from 3 to 9:"
BODY = {"prompt": PROMPT, "temperature": 0, "max_tokens": 40}


@pytest.fixture
def read(server):
    def read():
        text = server.client.get("/metrics").text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return read


def grown(before, after, name, **labels):
    key = (name, *sorted({"model_name": "unillm/tiny", **labels}.items()))
    return after[key] - before.get(key, 0.0)


def test_each_request_counts_once(server, read):
    before = read()

    server.post("/v1/completions", **BODY)
    server.post("/v1/completions", **BODY, stream=True)
    server.post("/v1/completions", **BODY | {"prompt": [PROMPT, PROMPT]})
    server.post("/v1/completions", **BODY | {"max_tokens": 2})
    server.post("/v1/completions", **BODY | {"top_p": 0})

    after = read()
    assert grown(before, after, "unillm:prompt_tokens_total") == 5 * 11
    assert grown(before, after, "unillm:generation_tokens_total") == 4 * 14 + 2
    ended = "unillm:request_success_total"
    assert grown(before, after, ended, finished_reason="stop") == 4
    assert grown(before, after, ended, finished_reason="length") == 1
    refused = "unillm:request_refusals_total"
    assert grown(before, after, refused, status="400") == 1
    for name in ("time_to_first_token", "e2e_request_latency"):
        assert grown(before, after, f"unillm:{name}_seconds_count") == 5
    between = "unillm:inter_token_latency_seconds_count"
    assert 1 <= grown(before, after, between) <= 13
    assert grown(before, after, "unillm:request_prompt_tokens_sum") == 5 * 11


def test_an_idle_server_has_free_slots_and_an_empty_queue(read):
    now = read()

    model = ("model_name", "unillm/tiny")
    assert now["unillm:engine_up", model] == 1
    assert now["unillm:num_requests_running", model] == 0
    assert now["unillm:num_requests_waiting", model] == 0
    assert now["unillm:slots", model, ("state", "busy")] == 0
    assert now["unillm:slots", model, ("state", "free")] == 8


def test_no_prompt_key_or_id_is_in_a_label(server, read):
    headers = {"X-Request-Id": "id-of-mine", "Authorization": "Bearer key-of-mine"}
    server.client.post(
        "/v1/completions",
        json={"prompt": "prompt of mine", "max_tokens": 1, "user": "user-of-mine"},
        headers=headers,
    )
    server.post("/v1/completions", prompt="x", model="model-of-mine")

    assert "of-mine" not in str(read())
    assert "of mine" not in str(read())


def test_each_metric_of_the_dashboard_exists(server, read):
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    server.post("/v1/completions", **BODY)
    server.post("/v1/completions", **BODY | {"top_p": 0})
    names = {name for name, *_ in read()}

    targets = [each for panel in dashboard["panels"] for each in panel["targets"]]
    named = set(re.findall(r"unillm:\w+", " ".join(each["expr"] for each in targets)))
    assert len(named) > 10
    assert named <= names


def test_openmetrics_is_written_on_request(server):
    accept = "application/openmetrics-text; version=1.0.0"

    answer = server.client.get("/metrics", headers={"accept": accept})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
