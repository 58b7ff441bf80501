# SPDX-License-Identifier: Apache-2.0

"""The fake TensorRT-LLM, one version family at a time."""

from __future__ import annotations

import sys

import pytest
from trtllm_double import calls, engine_dir
from trtllm_double.profiles import PROFILES
from unillm_tensorrt_llm import _device

from unillm import Generator
from unillm.backend import find_model

TINY = find_model("unillm/tiny")

TORCH_SAMPLER = ("1.4", "main")
"""Versions that have no other sampler."""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """Give each test its own environment and its own cache of engines."""
    monkeypatch.delenv("UNILLM_BACKEND", raising=False)
    monkeypatch.setenv("UNILLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(_device, "architecture", lambda: "sm_90")
    monkeypatch.setattr(_device, "free_bytes", lambda: None)
    calls.clear()


def install_family(name, monkeypatch):
    """Make the modules of one version family importable."""
    monkeypatch.setenv("TRTLLM_DOUBLE_PROFILE", name)
    for module in [m for m in sys.modules if m.partition(".")[0] == "tensorrt_llm"]:
        monkeypatch.delitem(sys.modules, module)
    return PROFILES[name]


@pytest.fixture
def install(monkeypatch):
    """Install a version family for the time of a test."""
    return lambda name: install_family(name, monkeypatch)


@pytest.fixture(params=PROFILES)
def profile(request, install):
    """Every version family in turn."""
    return install(request.param)


@pytest.fixture
def engine_at(tmp_path):
    """Write an engine directory of the bundled model."""

    def engine_at(name="engine", **options):
        engine_dir.write(tmp_path / name, TINY, **options)
        return tmp_path / name

    return engine_at


@pytest.fixture
def open_generator():
    """Make generators that are closed after the test."""
    generators = []

    def open_generator(model="unillm/tiny", **options):
        generator = Generator(model, backend="tensorrt-llm", **options)
        generators.append(generator)
        return generator

    yield open_generator
    for generator in generators:
        generator.close()


@pytest.fixture(scope="session")
def reference():
    """The embedded backend on the same model."""
    with Generator(
        "unillm/tiny", backend="transformers", dtype="float32", enforce_eager=True
    ) as generator:
        yield generator
