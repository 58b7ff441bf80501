# SPDX-License-Identifier: Apache-2.0

"""API keys, origins and addresses."""

from __future__ import annotations

import base64

import pytest
from server_process import events, scripted

from unillm.errors import ConfigError
from unillm.protocol.openapi import ENDPOINTS
from unillm.server.settings import ServerSettings

ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def locked():
    """A server with two keys, one of the environment."""
    with scripted(
        *("--api-key", "first-key", "--allowed-origins", ORIGIN),
        *("--served-model-name", "mine", "--served-model-name", "also-mine"),
        *("--response-role", "bot", "--return-tokens-as-token-ids"),
        *("--enable-force-include-usage", "--enable-prompt-tokens-details"),
        *("--override-generation-config", '{"max_tokens": 3}'),
        env={"UNILLM_API_KEY": "second-key"},
    ) as server:
        yield server


def with_key(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: each.path)
def test_every_path_but_health_needs_a_key(locked, endpoint):
    path = endpoint.path.replace("{name}", "mine")

    without = locked.client.request(endpoint.method, path)
    wrong = locked.client.request(endpoint.method, path, headers=with_key("key"))
    right = locked.client.request(endpoint.method, path, headers=with_key("first-key"))

    if path == "/health":
        assert without.status_code == 200
    else:
        assert without.status_code == wrong.status_code == 401
        assert without.json()["error"]["code"] == "invalid_api_key"
    assert right.status_code != 401


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/v1", "//v1/models", "/health/", "/%68ealth/../v1/models"],
)
def test_a_path_that_does_not_exist_needs_a_key_too(locked, path):
    assert locked.client.get(path).status_code == 401


def test_the_key_of_the_environment_and_the_password_of_a_browser_are_keys(locked):
    basic = base64.b64encode(b"anyone:second-key").decode()

    for headers in (with_key("second-key"), {"Authorization": f"Basic {basic}"}):
        assert locked.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "first-key", "Basic ###", "Bearer first-key2", "Bearer \xff"],
)
def test_a_malformed_key_is_refused(locked, value):
    headers = {"Authorization": value.encode("latin-1")}

    assert locked.client.get("/v1/models", headers=headers).status_code == 401


def test_a_page_of_an_allowed_origin_may_ask_without_a_key_whether_it_may(locked):
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }

    allowed = locked.client.options("/v1/completions", headers=headers)
    other = locked.client.options(
        "/v1/completions", headers={**headers, "Origin": "https://evil.example"}
    )

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers


def test_origins_are_closed_by_default(server):
    answer = server.client.get("/v1/models", headers={"Origin": ORIGIN})

    assert "access-control-allow-origin" not in answer.headers


def test_no_key_is_in_the_log(locked):
    locked.client.get("/v1/models", headers=with_key("first-key"))

    assert "first-key" not in locked.log()
    assert "second-key" not in locked.log()


def test_a_model_has_the_names_that_it_is_served_under(locked):
    headers = with_key("first-key")
    body = {"model": "also-mine", "prompt": [1, 2], "max_tokens": 1}

    models = locked.client.get("/v1/models", headers=headers).json()["data"]
    answer = locked.client.post("/v1/completions", json=body, headers=headers)
    other = {**body, "model": "unillm/tiny"}
    refused = locked.client.post("/v1/completions", json=other, headers=headers)

    assert [model["id"] for model in models] == ["mine", "also-mine"]
    assert {model["root"] for model in models} == {"unillm/tiny"}
    assert answer.json()["model"] == "mine"
    assert refused.status_code == 404


def test_the_options_of_answers_hold(locked):
    body = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
    path, headers = "/v1/chat/completions", with_key("first-key")

    whole = locked.client.post(path, json=body, headers=headers).json()
    body["stream"] = True
    with locked.client.stream("POST", path, json=body, headers=headers) as answer:
        *chunks, done = events(answer)

    assert whole["choices"][0]["message"]["role"] == "bot"
    assert whole["usage"]["completion_tokens"] == 3  # the default that was replaced
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert '"role":"bot"' in chunks[0]
    assert '"usage"' in chunks[-1]
    assert done == "[DONE]"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_address_of_the_network_needs_a_key_or_a_clear_word(host):
    with pytest.raises(ConfigError, match=r"reached from other machines.*--insecure"):
        ServerSettings(host=host)
    ServerSettings(host=host, api_keys=("x",))
    ServerSettings(host=host, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_address_of_this_machine_needs_none(host):
    ServerSettings(host=host)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_keys": ("",)}, "API key is empty"),
        ({"ssl_keyfile": "x"}, "needs both"),
        ({"tool_call_parser": "x"}, "tool_call_parser|tool-call-parser"),
    ],
    ids=["key", "tls", "parser"],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ServerSettings(**options)


def test_settings_show_no_key():
    assert "secret" not in repr(ServerSettings(api_keys=("secret",)))
