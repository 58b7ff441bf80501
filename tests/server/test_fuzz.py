# SPDX-License-Identifier: Apache-2.0

"""No body is an error of the server: each is answered, or refused in OpenAI's form."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unillm.protocol import bodies
from unillm.protocol.fields import REFUSED, TOLERATED
from unillm.protocol.responses_body import ResponsesBody

PATHS = {
    "/v1/completions": bodies.CompletionBody,
    "/v1/chat/completions": bodies.ChatBody,
    "/v1/responses": ResponsesBody,
    "/tokenize": bodies.TokenizeBody,
    "/detokenize": bodies.DetokenizeBody,
}
ODD = [*REFUSED, *TOLERATED, "temperatur", "", "\ud800", "a" * 500]
SIZES = st.sampled_from([0, 1, -1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 10**30])
NUMBERS = SIZES | st.integers(-5, 600) | st.floats() | st.booleans()
TEXTS = st.text(max_size=8) | st.sampled_from(["", "\ud800", "json_object", "user"])
WORDS = st.sampled_from(
    ["role", "content", "type", "text", "name", "json", "choice", "schema", "function"]
)
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
SENSIBLE = {
    "/v1/completions": {"prompt": "Count:", "max_tokens": 2},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2,
    },
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1]},
}


@st.composite
def requests(draw):
    path = draw(st.sampled_from(sorted(PATHS)))
    names = st.sampled_from([*PATHS[path].__struct_fields__, *ODD])
    changed = draw(st.dictionaries(names, VALUES, max_size=3))
    return path, {**SENSIBLE[path], **changed}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
def test_no_body_is_an_error_of_the_server(server, given_):
    path, body = given_
    raw = json.dumps(body).encode("utf-8", "surrogatepass")

    answer = server.client.post(
        path, content=raw, headers={"content-type": "application/json"}
    )

    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    if answer.status_code != 200:
        error = msgspec.json.decode(answer.content)["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"nul",
        b'"text"',
        b"[1, 2]",
        b'{"prompt": "a", "prompt"}',
        b'{"prompt": NaN}',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"structured_outputs": {"json": '
        + b'{"a":' * 5000
        + b"1"
        + b"}" * 5001
        + b"}",
    ],
    ids=lambda raw: raw[:24].decode("latin-1") + f"({len(raw)})",
)
@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_not_an_object_of_json_is_refused(server, path, raw):
    answer = server.client.post(
        path, content=raw, headers={"content-type": "application/json"}
    )

    assert answer.status_code == 400
    assert msgspec.json.decode(answer.content)["error"]["message"]
