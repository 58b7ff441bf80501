# SPDX-License-Identifier: Apache-2.0

"""Models of a hub, with the real client and a hub on this machine.

This is what the client is shown: the published forms of the API. No model was ever
downloaded from huggingface.co here.
"""

from __future__ import annotations

import errno
import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants
from scripted_hub import COMMIT, Hub, running

from unillm.errors import (
    ConfigError,
    ModelLoadError,
    ModelNotFoundError,
    UnsafeModelError,
)
from unillm.model.directory import check_directory
from unillm.model.find import BUNDLED, find_model
from unillm.model.hub import download, needed_files

NAME = "some/model"
TINY = {file.name: file.read_bytes() for file in BUNDLED["unillm/tiny"].iterdir()}


@pytest.fixture
def hub():
    with running(Hub({NAME: dict(TINY)})) as hub:
        yield hub


@pytest.fixture(autouse=True)
def client(hub, tmp_path, monkeypatch):
    """Point huggingface_hub to the hub, with an empty cache and no token."""
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return constants


def files_of(path):
    return {file.name for file in path.iterdir()}


# ---------------------------------------------------------------------------- downloads


def test_a_model_is_downloaded_once_without_what_is_not_needed(hub, capsys):
    hub.repositories[NAME] |= {
        "consolidated.safetensors": b"the same again",
        "pytorch_model.bin": b"and again",
        "modeling_own.py": b"code",
        "original/params.json": b"{}",
        "additional_chat_templates/tool_use.jinja": b"{{ messages }}",
    }

    path = find_model(NAME)
    fetched = [each for each in hub.asked if each.startswith("GET /some/model/")]
    again = find_model(NAME)

    assert path == again
    assert path.name == COMMIT
    expected = {*TINY, "additional_chat_templates"} - {"README.md"}
    assert files_of(path) == expected
    assert len(fetched) == len(expected)
    assert [e for e in hub.asked if e.startswith("GET /some/model/")] == fetched
    check_directory(path)
    assert capsys.readouterr() == ("", "")  # bars are for a terminal


def test_a_tokenizer_is_downloaded_without_weights(hub):
    path = download(NAME, weights=False)

    assert "tokenizer.json" in files_of(path)
    assert "model.safetensors" not in files_of(path)


def test_a_revision_is_a_branch_a_tag_or_a_commit():
    assert find_model(NAME, revision="main") == find_model(NAME, revision=COMMIT)


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        (
            ["model.safetensors", "model-00001-of-00002.safetensors"],
            ["model.safetensors"],
        ),
        (
            ["a-1.safetensors", "a-2.safetensors", "consolidated.safetensors"],
            ["a-1.safetensors", "a-2.safetensors"],
        ),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["onnx/config.json", "x.py", "x.bin", "x.gguf"], []),
        (["merges.txt", "tokenizer.model"], ["merges.txt", "tokenizer.model"]),
    ],
    ids=["whole and parts", "Mistral", "Mistral alone", "other formats", "tokenizers"],
)
def test_weights_that_are_there_twice_are_needed_once(files, needed):
    assert needed_files(files, weights=True) == needed


# ------------------------------------------------------------------ what may go wrong


def test_a_model_that_the_hub_does_not_have_is_refused(hub):
    with pytest.raises(ModelNotFoundError, match="has no model of that name, or only"):
        find_model("some/typo")


def test_a_revision_that_the_hub_does_not_have_is_refused():
    with pytest.raises(ModelNotFoundError, match="some/model has no revision 'v2'"):
        find_model(NAME, revision="v2")


@pytest.mark.parametrize(
    ("token", "account"),
    [(None, "no token was sent"), ("hf_abc", "your token has no access")],
    ids=["without a token", "with a token"],
)
def test_a_gated_model_says_what_to_accept_and_where(hub, monkeypatch, token, account):
    hub.gated.add(NAME)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(ModelNotFoundError, match=account) as caught:
        find_model(NAME)

    assert f"Accept them at {hub.url}/{NAME}" in str(caught.value)


@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_that_is_busy_leaves_the_cache_in_use(hub, status, caplog):
    path = find_model(NAME)
    hub.status = status

    assert find_model(NAME) == path
    assert "the files of some/model in the cache are used" in caplog.text


def test_without_a_network_the_cache_is_used(client, monkeypatch, caplog):
    path = find_model(NAME)
    monkeypatch.setattr(client, "ENDPOINT", "http://127.0.0.1:9")

    assert find_model(NAME) == path
    assert "http://127.0.0.1:9 cannot be reached" in caplog.text


def test_without_a_network_and_a_cache_the_reason_is_said(client, monkeypatch):
    monkeypatch.setattr(client, "ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(ModelNotFoundError, match="Check the network") as caught:
        find_model(NAME)

    assert "hf download some/model" in str(caught.value)


def test_offline_the_cache_is_used_and_the_hub_is_not_asked(hub, client, monkeypatch):
    never = ("consolidated.safetensors", "original/params.json", "onnx/config.json")
    hub.repositories[NAME] |= dict.fromkeys(never, b"{}")
    path = find_model(NAME)
    hub.asked.clear()
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)

    assert find_model(NAME) == path
    assert hub.asked == []


def test_offline_after_a_download_without_weights_is_refused(client, monkeypatch):
    download(NAME, weights=False)
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)

    assert download(NAME, weights=False)
    with pytest.raises(ModelNotFoundError, match="or only in part"):
        find_model(NAME)


def test_offline_without_a_cache_is_refused(client, monkeypatch):
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE=1 forbids"):
        find_model(NAME)


def test_offline_a_revision_that_is_not_cached_is_refused(client, monkeypatch):
    find_model(NAME)
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelNotFoundError, match="with the revision 'v2' is not in"):
        find_model(NAME, revision="v2")


def test_a_download_that_breaks_off_goes_on_at_the_next_call(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's retries
    hub.breaks_off.add("model.safetensors")

    with pytest.raises(ModelLoadError, match="The download of some/model broke off"):
        find_model(NAME)
    hub.breaks_off.clear()

    check_directory(find_model(NAME))


def test_a_model_that_does_not_fit_on_the_disk_is_not_downloaded(hub, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))

    with pytest.raises(ModelLoadError, match="1000 bytes are free in the cache"):
        find_model(NAME)

    assert not [each for each in hub.asked if "/resolve/" in each]


def test_a_disk_that_becomes_full_is_said(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)

    with pytest.raises(ModelLoadError, match="The disk is full: some/model"):
        find_model(NAME)


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (["model-Q4_K_M.gguf"], ModelLoadError, "llama.cpp's server"),
        (["pytorch_model.bin"], UnsafeModelError, "pickles only"),
    ],
    ids=["GGUF", "pickles"],
)
def test_other_formats_are_refused_before_the_download(hub, files, error, message):
    hub.repositories[NAME] = {"config.json": b"{}", **dict.fromkeys(files, b"x")}

    with pytest.raises(error, match=message) as caught:
        find_model(NAME)

    assert files[0] in str(caught.value)
    assert not [each for each in hub.asked if "/resolve/" in each]


# ---------------------------------------------------------------- what is on the disk


def test_a_gguf_file_and_a_folder_of_them_are_refused(tmp_path):
    file = tmp_path / "model-Q8_0.gguf"
    file.write_bytes(b"GGUF")

    for path in (file, tmp_path):
        with pytest.raises(ModelLoadError, match="GGUF is the format of"):
            find_model(path)


@pytest.mark.parametrize("model", ["unillm/tiny", "{path}"])
def test_a_directory_has_no_revisions(model, tmp_path):
    with pytest.raises(ConfigError, match="Leave revision out"):
        find_model(model.format(path=tmp_path), revision="main")


def test_the_home_of_no_user_is_not_a_model():
    with pytest.raises(ModelNotFoundError, match="~no-such-user/model"):
        find_model("~no-such-user/model")
