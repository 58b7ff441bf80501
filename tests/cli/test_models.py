# SPDX-License-Identifier: Apache-2.0

"""``unillm models``, on a cache of the layout that huggingface_hub writes."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from huggingface_hub import constants

from unillm import inspect_model
from unillm.model.find import BUNDLED

COMMIT = "a" * 40
OLD = "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return a function that puts a model into an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def put(name, *, commit=COMMIT, refs=("main",), without=(), **config):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for folder in ("blobs", "refs"):
            (repository / folder).mkdir(exist_ok=True)
        for ref in refs:
            (repository / "refs" / ref).write_text(commit)
        for file in BUNDLED["unillm/tiny"].iterdir():
            if file.name in without:
                continue
            blob = repository / "blobs" / f"{commit[0]}-{file.name}"
            shutil.copy(file, blob)
            if file.name == "config.json" and config:
                blob.write_text(json.dumps(json.loads(blob.read_text()) | config))
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        return snapshot

    return put


def listed(cli):
    result = cli("models", "--json")
    assert result.exit_code == 0, result.stderr
    return {(each["name"], each["commit"]): each for each in json.loads(result.stdout)}


def test_a_model_has_its_size_family_backends_and_memory(cache, cli):
    path = cache("some/model", refs=("main", "v1"))

    [model] = listed(cli).values()

    report = inspect_model("unillm/tiny", slots=1, length=1024)
    assert model["revisions"] == ["main", "v1"]
    assert model["path"] == str(path)
    assert model["model_type"] == "llama"
    assert "transformers" in model["backends"]
    assert model["total_bytes"] == sum(each.stat().st_size for each in path.iterdir())
    assert model["memory_bytes"] == report.memory.total_bytes
    assert model["length"] == 1024  # the context is shorter than the default
    assert model["problem"] == ""


def test_every_revision_has_a_line_the_current_one_first(cache, cli):
    cache("some/model")
    cache("some/model", commit=OLD, refs=())
    cache("another/model")

    assert [*listed(cli)] == [
        ("another/model", COMMIT),
        ("some/model", COMMIT),
        ("some/model", OLD),
    ]
    shown = cli("models").stdout.splitlines()
    assert shown[2].split()[:2] == ["some/model", "main"]
    assert shown[3].split()[:2] == ["some/model", OLD[:7]]


def test_an_incomplete_model_says_what_is_missing(cache, cli):
    cache("some/model", without=("model.safetensors",))

    result = cli("models")

    assert result.exit_code == 0
    assert "some/model cannot be used" in result.stdout
    assert "no *.safetensors file" in result.stdout


def test_a_model_that_no_backend_serves_says_why(cache, cli):
    cache("some/model", model_type="rwkv")

    result = cli("models")

    assert "some/model has no backend here" in result.stdout
    assert "'rwkv' is not supported" in result.stdout


def test_an_empty_cache_says_how_to_fill_it(cache, cli):
    del cache

    result = cli("models")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "There is no model in" in result.stderr
