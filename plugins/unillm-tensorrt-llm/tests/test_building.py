# SPDX-License-Identifier: Apache-2.0

"""Engines: their specs, their builds, and engines that do not fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import TINY
from trtllm_double import calls
from unillm_tensorrt_llm import TensorRTLLMBackend, _building, _device

from unillm import SamplingParams
from unillm.backend import ArtifactStore, EngineConfig, Limits, memory_needs
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    EngineOutOfMemoryError,
    ModelLoadError,
    PromptTooLongError,
)

GREEDY = SamplingParams(temperature=0, max_tokens=20)


def config(path=TINY, **given):
    return EngineConfig.create(
        backend="tensorrt-llm", model=str(path), path=Path(path), **given
    )


def spec(**given):
    return TensorRTLLMBackend().build_spec(config(**given))


# ------------------------------------------------------------------------------- specs


def test_a_plan_needs_no_tensorrt_llm(monkeypatch):
    """Unknown fields of the spec stay open."""
    monkeypatch.setattr(_building, "engine_version", lambda: None)
    monkeypatch.setattr(_device, "architecture", lambda: None)

    planned = spec(max_model_len=512, max_num_seqs=4)

    limits = dict(planned.limits)
    assert limits == {
        "max_batch_size": 4,
        "max_input_len": 511,
        "max_seq_len": 512,
        "max_num_tokens": 8192,
    }
    assert planned.unknown == ("engine_version", "device")


def test_longrope_is_built_for_its_short_context_unless_more_is_asked(
    install, tmp_path
):
    install("0.21")
    for file in TINY.iterdir():
        shutil.copy(file, tmp_path)
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 256}
    declared = json.loads((TINY / "config.json").read_text())
    declared |= {"max_position_embeddings": 4096, "rope_parameters": longrope}
    (tmp_path / "config.json").write_text(json.dumps(declared))

    assert spec(path=tmp_path).max_seq_len == 256
    assert spec(path=tmp_path, max_model_len=4096).max_seq_len == 4096
    with pytest.raises(ConfigError, match=r"max_model_len=4097 .* 4096 positions"):
        spec(path=tmp_path, max_model_len=4097)


def test_a_version_on_pytorch_builds_nothing(install):
    install("1.4")

    assert spec() is None


def test_an_engine_directory_needs_no_build(install, engine_at):
    install("0.21")

    assert TensorRTLLMBackend().build_spec(config(engine_at())) is None


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"quantization": "fp8"},
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_option_of_an_engine_is_part_of_its_key(install, change):
    install("0.21")

    assert spec().key != spec(**change).key
    assert not spec().covers(spec(**change))


def test_the_gpu_is_part_of_the_key(install, monkeypatch):
    """TensorRT-LLM's own build cache omits it."""
    install("0.21")
    here = spec()
    monkeypatch.setattr(_device, "architecture", lambda: "sm_89")

    assert here.key != spec().key


def test_the_contents_of_the_weights_are_part_of_the_key(install, tmp_path):
    """TensorRT-LLM's own build cache knows the path alone."""
    install("0.21")
    copy = shutil.copytree(TINY, tmp_path / "model")
    before = TensorRTLLMBackend().build_spec(config(copy)).key
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    assert before != TensorRTLLMBackend().build_spec(config(copy)).key


def test_an_unknown_quantisation_is_refused_with_the_known_ones(install):
    install("0.21")

    with pytest.raises(ConfigError, match="fp8, awq, gptq, int8"):
        spec(quantization="q4_0")


# ---------------------------------------------------------------------------- building


@pytest.mark.parametrize(
    ("version", "door"), [("0.11", None), ("0.21", None), ("1.2", "engine")]
)
def test_an_engine_is_built_once_and_loaded_many_times(
    install, open_generator, reference, version, door
):
    install(version)
    options = {"max_model_len": 512, "max_num_seqs": 4}
    if door:
        options["backend_options"] = {"door": door}
    prompt = "Count from 3 to 9:"

    texts = [
        open_generator(**options).generate(prompt, GREEDY)[0].text for _ in range(2)
    ]

    assert texts == [reference.generate(prompt, GREEDY)[0].text] * 2
    assert len(calls.of("build")) == 1


def test_a_larger_engine_is_reused_and_logged(install, open_generator, caplog):
    install("0.21")
    caplog.set_level("INFO")
    open_generator(max_model_len=512, max_num_seqs=8).close()

    generator = open_generator(max_model_len=256, max_num_seqs=4)

    assert len(calls.of("build")) == 1
    assert generator.limits.max_model_len == 256
    assert "512" in caplog.text


def test_a_prompt_that_is_too_long_is_refused_with_the_engines_limit(
    install, open_generator
):
    install("0.21")
    generator = open_generator(max_model_len=512)

    with pytest.raises(
        PromptTooLongError, match=r"512 tokens.*600 tokens; at most 511"
    ):
        generator.generate([[1] * 600])


def test_a_failed_build_leaves_no_entry(install, open_generator, monkeypatch):
    install("0.21")
    import tensorrt_llm

    def fails(self, target):
        (Path(target) / "rank0.engine").write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(tensorrt_llm.LLM, "save", fails)

    with pytest.raises(Exception, match="no space left"):
        open_generator()

    assert ArtifactStore().folder.entries() == []


def test_a_version_without_engines_is_refused_with_the_last_with_them(
    install, tmp_path
):
    install("1.4")
    wanted = spec(backend_options={"door": "engine"})

    with pytest.raises(BackendUnavailableError, match=r"1\.3\.0rc20"):
        TensorRTLLMBackend().build(wanted, tmp_path, lambda *_, **__: None)


@pytest.mark.parametrize(
    "text",
    [
        "Error Code 2: OutOfMemory (no further information)",
        "Requested amount of GPU memory (24793579520 bytes) could not be allocated.",
    ],
)
def test_running_out_of_memory_while_building_names_the_limits_to_reduce(
    install, open_generator, monkeypatch, text
):
    install("0.21")
    import tensorrt_llm

    def fails(self, path, dtype):
        raise RuntimeError(text)

    monkeypatch.setattr(tensorrt_llm.LLM, "_build", fails)

    with pytest.raises(
        EngineOutOfMemoryError,
        match=r"max_num_seqs=16 requests of max_model_len=512 tokens",
    ):
        open_generator(max_num_seqs=16, max_model_len=512)


def test_an_engine_larger_than_the_memory_is_refused_with_a_limit_that_fits(
    install, open_generator, monkeypatch
):
    install("0.21")
    import tensorrt_llm

    def fails(self, path, dtype):
        raise RuntimeError("Error Code 2: OutOfMemory (no further information)")

    monkeypatch.setattr(tensorrt_llm.LLM, "_build", fails)
    monkeypatch.setattr(_device, "free_bytes", lambda: 256 << 20)

    with pytest.raises(EngineOutOfMemoryError) as caught:
        open_generator(max_num_seqs=512, max_num_batched_tokens=1024)

    [fits] = map(int, re.findall(r"estimate, max_num_seqs=(\d+)", str(caught.value)))
    needs = memory_needs(TINY)
    sizes = [
        needs.estimate(
            Limits(max_num_seqs=n, max_model_len=1024, max_num_batched_tokens=1024)
        ).total_bytes
        for n in (fits, fits + 1)
    ]
    assert sizes[0] <= 0.95 * (256 << 20) < sizes[1]


# --------------------------------------------------------------------- does not fit


def test_an_engine_of_another_version_is_refused_before_loading(
    install, open_generator, engine_at
):
    install("0.21")
    path = engine_at(version="0.20.0")

    with pytest.raises(ModelLoadError, match=r"by TensorRT-LLM 0\.20\.0, and 0\.21"):
        open_generator(path, tokenizer=TINY)

    assert calls.of("LLM") == []


@pytest.mark.parametrize("inflight", [True, False], ids=["engine", "runner"])
@pytest.mark.parametrize(
    "other", [{"compute": "8.9"}, {"tensorrt": "9.2.0.5"}], ids=["gpu", "tensorrt"]
)
def test_an_engine_of_another_gpu_or_tensorrt_is_refused_with_the_advice_to_rebuild(
    install, open_generator, engine_at, inflight, other
):
    """The runner raises a bare AssertionError."""
    install("0.21")
    path = engine_at(inflight=inflight, **other)

    with pytest.raises(ModelLoadError, match=r"fits one kind of GPU.*Build it again"):
        open_generator(path, tokenizer=TINY)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"max_model_len": 1000}, r"max_model_len=1000 is more than the 512"),
        ({"max_num_seqs": 9}, r"max_num_seqs=9 is more than the 8"),
        ({"tensor_parallel_size": 2}, r"tensor_parallel_size=2 does not fit"),
        ({"kv_cache_dtype": "fp8"}, r"fixed when an engine is built"),
    ],
    ids=["length", "batch", "tp", "kv"],
)
def test_more_than_an_engine_was_built_for_is_refused_with_both_numbers(
    install, open_generator, engine_at, asked, match
):
    install("0.21")

    with pytest.raises(ConfigError, match=match):
        open_generator(engine_at(max_seq_len=512), tokenizer=TINY, **asked)
