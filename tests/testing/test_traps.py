# SPDX-License-Identifier: Apache-2.0

"""The traps of hostile directories work on code that trusts them."""

from __future__ import annotations

import contextlib
import socket

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

from unillm.testing.hostile import TRAPS, blocked_network, trapped_model


def read_trustfully(auto, model):
    return auto.from_pretrained(model, trust_remote_code=True, local_files_only=True)


def unpickle(model):
    return torch.load(model / "pytorch_model.bin", weights_only=False)


SPRUNG_BY = {
    "config": lambda model: read_trustfully(AutoConfig, model),
    "unknown model": lambda model: read_trustfully(AutoConfig, model),
    "tokenizer": lambda model: read_trustfully(AutoTokenizer, model),
    "processor": lambda model: read_trustfully(AutoProcessor, model),
    "pickled weights": unpickle,
    "pickle beside the weights": unpickle,
}


@pytest.mark.parametrize("trap", SPRUNG_BY)
def test_trusting_code_springs_the_trap(trap, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, canary = trapped_model(trap, tmp_path)
    assert not canary.exists()

    with contextlib.suppress(Exception):  # the code defines no such class
        SPRUNG_BY[trap](model)

    assert canary.exists()


def test_every_trap_changes_the_bundled_model(tmp_path):
    plain = {"config.json", "evil.py", "generation_config.json"}
    for number, trap in enumerate(TRAPS):
        model, _ = trapped_model(trap, tmp_path / str(number))
        assert plain <= {file.name for file in model.iterdir()}


def test_connections_to_a_hub_are_refused_and_listed():
    with blocked_network() as tried:
        with pytest.raises(Exception, match="network"):
            HfApi().model_info("unillm/tiny")
        with pytest.raises(OSError, match="network"):
            socket.create_connection(("192.0.2.1", 80))

    assert tried[:1] == ["huggingface.co"]
    assert "192.0.2.1" in tried[-1]


def test_connections_to_own_processes_are_allowed():
    with blocked_network() as tried, socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()

    assert tried == []
