# SPDX-License-Identifier: Apache-2.0

"""vLLM's option names at every entry path."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
from conftest import TINY
from trtllm_double import calls
from unillm_tensorrt_llm import TensorRTLLMBackend
from unillm_tensorrt_llm._entry_paths import EntryPath
from unillm_tensorrt_llm._names import CONSTRUCTOR, SAMPLING, vllm_name

from unillm.backend import ENGINE_OPTIONS
from unillm.errors import BackendUnavailableError, ConfigError


@pytest.fixture
def seen(install, open_generator):
    """Open a generator on PyTorch and return the arguments of its LLM."""
    install("1.2")

    def seen(**options):
        open_generator(**options)
        return calls.of("LLM")[-1]

    return seen


def test_every_option_is_given_explicitly_under_its_own_name(seen):
    made = seen(max_model_len=512, max_num_seqs=4, max_num_batched_tokens=1024)

    limits = made["max_seq_len"], made["max_batch_size"], made["max_num_tokens"]
    assert limits == (512, 4, 1024)
    assert made["skip_tokenizer_init"] is True


def test_lengths_are_always_explicit(seen):
    """TensorRT-LLM's defaults lower a length that does not fit, with a warning."""
    made = seen()

    assert made["max_seq_len"] == 1024
    assert made["max_batch_size"] == 256


def test_the_cache_has_its_own_configuration_object(seen):
    made = seen(
        gpu_memory_utilization=0.5, enable_prefix_caching=False, kv_cache_dtype="fp8"
    )

    assert made["kv_cache_config"].model_dump(exclude_unset=True) == {
        "free_gpu_memory_fraction": 0.5,
        "enable_block_reuse": False,
        "dtype": "fp8",
    }


def test_eager_means_no_cuda_graphs(seen):
    assert seen(enforce_eager=True)["cuda_graph_config"] is None


def test_more_context_than_the_model_has_is_refused(seen):
    with pytest.raises(ConfigError, match="max_model_len=4096 is more than the 1024"):
        seen(max_model_len=4096)


@pytest.mark.parametrize(
    ("config", "made_by"),
    [
        ({"method": "ngram", "num_speculative_tokens": 3}, "NGramDecodingConfig"),
        (
            {"method": "draft_model", "num_speculative_tokens": 3, "model": "draft"},
            "DraftTargetDecodingConfig",
        ),
        (
            {"method": "eagle3", "num_speculative_tokens": 3, "model": "head"},
            "Eagle3DecodingConfig",
        ),
    ],
    ids=["ngram", "draft_model", "eagle3"],
)
def test_speculation_comes_from_the_same_field_as_vllms(seen, config, made_by):
    made = seen(speculative_config=config)

    speculative = made["speculative_config"]
    assert made_by == type(speculative).__name__
    assert speculative.max_draft_len == 3
    assert config.get("model") == getattr(speculative, "speculative_model", None)
    assert ("disable_overlap_scheduler" in made) == (config["method"] == "draft_model")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"method": "magic", "num_speculative_tokens": 3}, "ngram, draft_model"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "≥ 1, got 0"),
        (
            {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4},
            "has prompt_lookup_max",
        ),
    ],
    ids=["method", "tokens", "key"],
)
def test_speculation_without_a_counterpart_is_refused(seen, config, match):
    with pytest.raises(ConfigError, match=match):
        seen(speculative_config=config)


def test_a_speculation_method_that_the_version_lacks_is_refused(seen, monkeypatch):
    config = {"method": "mtp", "num_speculative_tokens": 1}
    monkeypatch.delattr("tensorrt_llm.llmapi.MTPDecodingConfig")

    with pytest.raises(BackendUnavailableError, match="has no MTPDecodingConfig"):
        seen(speculative_config=config)


def test_pytorch_does_not_quantise_while_loading(seen):
    with pytest.raises(ConfigError, match="Quantise it with NVIDIA ModelOpt first"):
        seen(quantization="fp8")


def test_an_engine_is_quantised_when_it_is_built(install, open_generator):
    install("0.21")

    open_generator(quantization="awq")

    assert calls.of("LLM")[0]["quant_config"].quant_algo == "W4A16_AWQ"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype='bfloat16'.*was built with float32"),
        ({"quantization": "fp8"}, "quantization='fp8'.*was built with W8A16"),
        ({"max_num_batched_tokens": 9000}, "=9000 is more than the 8192"),
        ({"kv_cache_dtype": "fp8"}, "is fixed when an engine is built"),
        ({"gpu_memory_utilization": 0.5}, "ModelRunner, which runs.*takes no such"),
        ({"enable_prefix_caching": True}, "ModelRunner, which runs.*takes no such"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_contradicts_the_engine_is_refused(
    install, open_generator, engine_at, option, message
):
    install("0.21")
    path = engine_at(inflight=False, quant_algo="W8A16")

    with pytest.raises(ConfigError, match=message):
        open_generator(path, tokenizer=TINY, **option)


def test_an_option_that_agrees_with_the_engine_is_fine(
    install, open_generator, engine_at
):
    install("0.21")
    path = engine_at(quant_algo="W8A16")

    assert open_generator(path, tokenizer=TINY, dtype="float32", quantization="int8")


def test_the_users_cache_configuration_is_merged_with_the_options(seen, install):
    llmapi = importlib.import_module("tensorrt_llm.llmapi")
    for mine in ({"max_tokens": 4096}, llmapi.KvCacheConfig(max_tokens=4096)):
        made = seen(
            gpu_memory_utilization=0.5, backend_options={"kv_cache_config": mine}
        )

        config = made["kv_cache_config"]
        assert (config.free_gpu_memory_fraction, config.max_tokens) == (0.5, 4096)


def test_an_option_is_not_given_in_two_places(seen):
    mine = {"free_gpu_memory_fraction": 0.7}
    with pytest.raises(ConfigError, match="has free_gpu_memory_fraction, which unillm"):
        seen(gpu_memory_utilization=0.5, backend_options={"kv_cache_config": mine})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kv_cache_dtype": "fp8_e5m2"}, "one of auto, fp8, nvfp4 .* got 'fp8_e5m2'"),
        (
            {"backend_options": {"kv_cache_config": {"no_such_field": 1}}},
            "TensorRT-LLM refused an option while it started: ValidationError",
        ),
        ({"backend_options": {"kv_cache_config": "mine"}}, "LLM|refused|must be"),
    ],
    ids=["dtype", "field", "text"],
)
def test_no_error_of_pydantic_escapes(seen, options, match):
    with pytest.raises(ConfigError, match=match):
        seen(**options)


def test_several_gpus_are_refused_with_the_needs_of_a_launch(seen):
    with pytest.raises(ConfigError, match=r"2 GPUs and 1 are av.*__main__.*OpenMPI"):
        seen(tensor_parallel_size=2)


def test_adapters_on_engines_are_refused_before_the_build(install, open_generator):
    install("0.21")

    with pytest.raises(
        ConfigError, match="enable_lora=True: the plugin loads adapters"
    ):
        open_generator(enable_lora=True)

    assert calls.of("build") == []


# --------------------------------------------------------------------------- the table


def test_the_table_has_every_engine_option_once():
    names = [name.vllm for name in CONSTRUCTOR]

    assert len(names) == len(set(names))
    assert TensorRTLLMBackend.engine_options <= set(names)
    assert TensorRTLLMBackend.engine_options == ENGINE_OPTIONS


def test_each_name_is_unique_at_its_entry_path():
    for path in EntryPath:
        theirs = [name.at(path) for name in (*CONSTRUCTOR, *SAMPLING) if name.at(path)]
        assert len(theirs) == len(set(theirs))


@pytest.mark.parametrize(
    ("entry_path", "theirs", "ours"),
    [
        (EntryPath.PYTORCH, "max_seq_len", "max_model_len"),
        (EntryPath.PYTORCH, "free_gpu_memory_fraction", "gpu_memory_utilization"),
        (EntryPath.ENGINE, "max_batch_size", "max_num_seqs"),
        (EntryPath.RUNNER, "random_seed", "seed"),
        (EntryPath.RUNNER, "medusa_choices", None),
    ],
)
def test_the_table_finds_vllms_name(entry_path, theirs, ours):
    assert vllm_name(entry_path, theirs) == ours


# -------------------------------------------------------------------------- the model


@pytest.mark.parametrize("family", ["0.21", "1.2"], ids=["engines", "PyTorch"])
def test_an_adapter_beside_the_weights_is_not_shown(
    install, open_generator, tmp_path, family
):
    install(family)
    path = Path(shutil.copytree(TINY, tmp_path / "model"))
    (path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')

    generator = open_generator(path)

    assert generator.generate("Add 17 and 25:")[0].text == "42"
    assert not (Path(calls.of("LLM")[0]["model"]) / "adapter_config.json").exists()
