# SPDX-License-Identifier: Apache-2.0

"""A real `unillm serve` behind the backend: equal outputs, refusals, and its death."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import time
from pathlib import Path

import pytest
from server_process import running
from unillm_remote import _transport
from unillm_remote._address import find_address

from unillm import Generator, SamplingParams
from unillm.backend import find_model
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    EngineDeadError,
    UnsupportedModelError,
)
from unillm.testing.asking import ANSWERS, COUNT, UNSURE

PROGRAM = Path(__file__).parents[3] / "examples" / "switch_backend.py"
ENDLESS = SamplingParams(n=32, max_tokens=900, ignore_eos=True)
"""No machine computes so many tokens between two statements of a test."""


def open_generator(server, **options):
    return Generator(
        options.pop("model", "unillm/tiny"),
        backend="remote",
        backend_options={"url": server.url, **options.pop("backend_options", {})},
        **options,
    )


@pytest.fixture(scope="module")
def generator(unillm_server):
    with open_generator(unillm_server) as generator:
        yield generator


@pytest.fixture(scope="module")
def in_process():
    with Generator(
        "unillm/tiny", backend="transformers", dtype="float32", max_num_seqs=8
    ) as generator:
        yield generator


def test_one_program_prints_the_same_on_both_sides(unillm_server, monkeypatch, capsys):
    monkeypatch.setenv("UNILLM_REMOTE_URL", unillm_server.url)
    printed = []
    for backend in ("transformers", "remote"):
        monkeypatch.setenv("UNILLM_BACKEND", backend)
        runpy.run_path(str(PROGRAM), run_name="__main__")
        printed.append(capsys.readouterr().out)

    assert "3 4 5 6 7 8 9" in printed[0]
    assert printed[1] == printed[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 1.3, "seed": 11, "top_p": 0.9, "min_p": 0.01},
        {"temperature": 0.8, "seed": 5, "top_k": 20, "n": 3},
        {"temperature": 0, "logprobs": 3, "prompt_logprobs": 2, "max_tokens": 5},
        {"temperature": 0, "structured_outputs": {"json": {"type": "integer"}}},
        {"temperature": 0, "bad_words": ["6", "forty two"], "stop": ["8"]},
        {"temperature": 0, "min_tokens": 9, "logit_bias": {65: 1.5}},
    ],
    ids=["greedy", "draws", "n", "logprobs", "structure", "words", "bias"],
)
def test_outputs_equal_those_in_process(generator, in_process, fields):
    params = SamplingParams(**{"max_tokens": 24, **fields})
    prompts = [*ANSWERS, UNSURE]

    here = in_process.generate(prompts, params)
    there = generator.generate(prompts, params)

    for one, other in zip(here, there, strict=True):
        assert _facts(other) == _facts(one)
        assert _logprobs(other) == pytest.approx(_logprobs(one), abs=1e-4)


def _facts(output):
    return [
        (each.token_ids, each.text, each.finish_reason, each.stop_reason)
        for each in output.outputs
    ]


def _logprobs(output):
    rows = [*(output.prompt_logprobs or ())]
    for each in output.outputs:
        rows += each.logprobs or ()
    found = {}
    for position, row in enumerate(rows):
        for token_id, entry in (row or {}).items():
            found[position, token_id] = entry.logprob
            if entry.rank == 1:
                found[position, "best"] = token_id
    return found


def test_what_answers_is_said(generator, unillm_server):
    stats = generator.stats()["engine"]

    assert stats["url"] == unillm_server.url
    assert (stats["server"], stats["path"]) == ("unillm", "/v1/completions")
    assert (stats["served_model"], stats["tokenizer_checked_by"]) == (
        "unillm/tiny",
        "/tokenize",
    )
    assert generator.limits.max_model_len == 1024


def test_a_cancelled_request_ends_on_the_server(generator, unillm_server):
    key = {"authorization": f"Bearer {os.environ['UNILLM_REMOTE_API_KEY']}"}

    def running_there():
        found = unillm_server.client.get("/activity", headers=key)
        return found.json()["running"]

    handle = generator.submit(COUNT, ENDLESS)
    next(iter(handle))
    assert running_there()

    handle.cancel()

    until = time.monotonic() + 30
    while running_there():
        assert time.monotonic() < until
        time.sleep(0.05)


# ---------------------------------------------------------------------------- the start


def test_a_server_of_another_tokenizer_is_refused(unillm_server, tmp_path):
    folder = shutil.copytree(find_model("unillm/tiny"), tmp_path / "other")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    ids = content["model"]["vocab"]
    ids["A"], ids["B"], ids["H"], ids["x"] = ids["B"], ids["A"], ids["x"], ids["H"]
    file.write_text(json.dumps(content))

    with pytest.raises(UnsupportedModelError, match="belong to different models"):
        open_generator(unillm_server, model=folder)


def test_a_folder_without_weights_is_enough(unillm_server, tmp_path):
    folder = shutil.copytree(
        find_model("unillm/tiny"),
        tmp_path / "text",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )

    with open_generator(unillm_server, model=folder) as generator:
        [output] = generator.generate(COUNT)

    assert output.text == ANSWERS[COUNT]


def test_a_wrong_key_is_refused_without_being_shown(unillm_server, monkeypatch):
    monkeypatch.setenv("UNILLM_REMOTE_API_KEY", "another-key")

    with pytest.raises(BackendUnavailableError) as caught:
        open_generator(unillm_server)

    assert "401" in str(caught.value)
    assert "UNILLM_REMOTE_API_KEY" in str(caught.value)
    assert "another-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend_options": {"served_model": "gpt"}}, "It has: unillm/tiny"),
        ({"backend_options": {"served_model": 7}}, "must be a name"),
        ({"max_model_len": 4096}, "more than the 1024 tokens"),
        ({"backend_options": {"api_key": "x"}}, "no option 'api_key'"),
        ({"quantization": "awq"}, "the server was started with its own"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(unillm_server, options, says):
    with pytest.raises(ConfigError, match=says):
        open_generator(unillm_server, **options)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "needs the address of a server"),
        ("ftp://host", "got 'ftp://host'"),
        ("host:8000", "got 'host:8000'"),
        ("http://host:port", "Port could not be cast"),
        ("http://host/?a=1", "without user, password, query"),
        (7, "got int"),
    ],
)
def test_an_address_that_is_none_is_refused(monkeypatch, url, says):
    monkeypatch.delenv("UNILLM_REMOTE_URL", raising=False)

    with pytest.raises(ConfigError, match=says):
        Generator("unillm/tiny", backend="remote", backend_options={"url": url})


def test_a_password_in_an_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("UNILLM_REMOTE_URL", "http://me:open-sesame@host:1")

    with pytest.raises(ConfigError) as caught:
        Generator("unillm/tiny", backend="remote")

    assert "UNILLM_REMOTE_API_KEY" in str(caught.value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("secret", ["sesame\nopen", "sesame-é"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(monkeypatch, secret):
    monkeypatch.setenv("UNILLM_REMOTE_API_KEY", secret)
    options = {"url": "http://127.0.0.1:9"}

    with pytest.raises(ConfigError, match="UNILLM_REMOTE_API_KEY must hold") as caught:
        Generator("unillm/tiny", backend="remote", backend_options=options)

    assert "sesame" not in str(caught.value)


def test_the_newline_at_the_end_of_a_keys_file_is_not_of_the_key(monkeypatch):
    monkeypatch.setenv("UNILLM_REMOTE_API_KEY", "sesame\n")

    address = find_address({"url": "http://127.0.0.1:9"})

    assert address.headers == {"authorization": "Bearer sesame"}


def test_an_address_without_a_server_is_refused():
    options = {"url": "http://127.0.0.1:9"}

    with pytest.raises(BackendUnavailableError, match="ConnectError"):
        Generator("unillm/tiny", backend="remote", backend_options=options)


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "gopher://proxy:1")
    monkeypatch.setenv("UNILLM_REMOTE_URL", "http://10.0.0.7:8000")

    with pytest.raises(BackendUnavailableError, match="gopher"):
        Generator("unillm/tiny", backend="remote")


# ---------------------------------------------------------------------------- the death


def test_the_death_of_a_server_reaches_every_call(monkeypatch, key):
    monkeypatch.setattr(_transport, "SILENCE_S", 0.5)
    monkeypatch.setattr(_transport, "HEALTH_TIMEOUT_S", 1.0)
    options = ("--backend", "transformers", "--dtype", "float32")
    env = {"UNILLM_API_KEY": key}
    with running("unillm/tiny", *options, "--max-num-seqs", "2", env=env) as server:
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            server.terminate(signal.SIGCONT)
            # Calls run there, wait there and wait here.
            with open_generator(server, max_num_seqs=4) as generator:
                handles = [generator.submit(prompt, ENDLESS) for prompt in ANSWERS]
                next(iter(handles[0]))

                server.terminate(signum)

                for handle in handles:
                    with pytest.raises(EngineDeadError, match="is gone"):
                        handle.result(timeout=60)
                with pytest.raises(EngineDeadError, match="is gone"):
                    generator.generate(COUNT)
