# SPDX-License-Identifier: Apache-2.0

"""The fake TensorRT-LLM, one version family at a time."""

from __future__ import annotations

import importlib
import sys

import pytest
from asking import IN_CPP, IN_TORCH
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


@pytest.fixture
def api(install):
    """Install a version and return the module of its LLM API."""

    def api(version):
        install(version)
        old = version in ("0.11", "0.12", "0.13", "0.14")
        return importlib.import_module(f"tensorrt_llm.{'hlapi' if old else 'llmapi'}")

    return api


@pytest.fixture
def torch_llm(api):
    """Open an ``LLM`` on PyTorch, with the sampler of that backend."""
    opened = []

    def torch_llm(version, **options):
        llm = api(version).LLM(
            str(TINY),
            skip_tokenizer_init=True,
            **(IN_TORCH.get(version, {}) | options),
        )
        opened.append(llm)
        return llm

    yield torch_llm
    for llm in opened:
        llm.shutdown()


@pytest.fixture
def cpp_llm(api, engine_at):
    """Open an ``LLM`` whose tokens the C++ decoder chooses."""
    opened = []

    def cpp_llm(version, *, build=None, **options):
        module = api(version)
        if version in IN_CPP:
            llm = module.LLM(
                str(TINY), skip_tokenizer_init=True, **(IN_CPP[version] | options)
            )
        else:
            path = engine_at(version, **({"max_num_tokens": 1024} | (build or {})))
            llm = module.LLM(str(path), skip_tokenizer_init=True, **options)
        opened.append(llm)
        return llm

    yield cpp_llm
    for llm in opened:
        llm.__exit__()
