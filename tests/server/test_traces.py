# SPDX-License-Identifier: Apache-2.0

"""Spans of requests, as an SDK of OpenTelemetry exports them."""

from __future__ import annotations

import json
from pathlib import Path

from server_process import running

PROGRAM = (str(Path(__file__).parents[1] / "traced_server.py"),)


def test_each_request_has_a_span_of_the_callers_trace(tmp_path):
    file = tmp_path / "spans"
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
        "x-request-id": "mine",
    }
    with running(program=PROGRAM, env={"SPANS": str(file)}) as server:
        body = {"prompt": [50, 51], "max_tokens": 3, "temperature": 0.5}
        server.client.post("/v1/completions", json=body, headers=headers)
        chat = [{"role": "user", "content": "a secret"}]
        server.post("/v1/chat/completions", messages=chat, max_tokens=2, stream=True)
        failing = server.post("/v1/completions", prompt=[14, 14, 14])

        assert failing.status_code == 500
        first, second, third = map(json.loads, file.read_text().splitlines())

    assert first["name"] == "text_completion unillm/tiny"
    assert first["context"]["trace_id"] == f"0x{trace_id}"
    attributes = first["attributes"]
    assert attributes["gen_ai.provider.name"] == "unillm"
    assert attributes["gen_ai.response.id"] == "mine"
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.usage.input_tokens"] == 2
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert second["name"] == "chat unillm/tiny"
    assert "secret" not in json.dumps(second)
    assert third["attributes"]["error.type"] == "RequestFailedError"
    assert third["status"]["status_code"] == "ERROR"
