# SPDX-License-Identifier: Apache-2.0

"""The application under an ASGI server that is not ours."""

from __future__ import annotations

import functools

import pytest
from starlette.testclient import TestClient

from unillm import Generator
from unillm.errors import EngineDeadError
from unillm.server.hosted import HostedServer
from unillm.server.settings import ServerSettings
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

BODY = {"prompt": "Count from 3 to 9:", "temperature": 0, "max_tokens": 20}


class Fragile(ScriptedEngine):
    """An engine that dies when its prompt has one token."""

    def add_request(self, request):
        if len(request.prompt_token_ids) == 1:
            raise OSError("the device is lost")
        super().add_request(request)


@pytest.fixture
def hosted():
    backend = ScriptedBackend(
        lambda config: Fragile(lambda *_: 40, max_model_len=256, vocab_size=512)
    )
    with plugged(backend):
        create = functools.partial(Generator, "unillm/tiny", backend="scripted")
        yield HostedServer(create, "unillm/tiny", ServerSettings())


def test_the_generator_lives_as_long_as_the_asgi_server(hosted):
    with pytest.raises(EngineDeadError, match="Start the server anew"):
        hosted.check_health()
    with TestClient(hosted.app) as client:
        hosted.check_health()
        answer = client.post("/v1/completions", json=BODY)
        assert client.get("/health").status_code == 200

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 20
    with pytest.raises(EngineDeadError):
        hosted.check_health()


def test_a_dead_engine_is_unhealthy(hosted):
    with TestClient(hosted.app) as client:
        failed = client.post("/v1/completions", json={**BODY, "prompt": [3]})

        assert failed.status_code == 503
        with pytest.raises(EngineDeadError):
            hosted.check_health()


def test_a_model_that_cannot_be_loaded_ends_the_start():
    create = functools.partial(Generator, "/does/not/exist")
    hosted = HostedServer(create, "x", ServerSettings())

    with pytest.raises(FileNotFoundError), TestClient(hosted.app):
        pass
