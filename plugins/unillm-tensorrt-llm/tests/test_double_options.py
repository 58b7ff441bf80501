# SPDX-License-Identifier: Apache-2.0

"""Options and configurations of the fake.

Each test is a fact about TensorRT-LLM with the section of
``docs/reference/tensorrt-llm.md`` that names its source.
"""

from __future__ import annotations

import pydantic
import pytest
from asking import (
    DRAW,
    ENGINES,
    PROMPT,
    PYTORCH,
    SHORT,
    ask,
    ids,
    params,
)
from trtllm_double.profiles import PROFILES

# ----------------------------------------------------------------------- configuration


@pytest.mark.parametrize("version", [*ENGINES, *PYTORCH])
def test_a_wrong_cache_field_raises_where_the_object_is_made(api, version):
    """§2.1: ``pydantic.ValidationError``; before, the TypeError of a binding."""
    with pytest.raises((pydantic.ValidationError, TypeError)) as caught:
        api(version).KvCacheConfig(no_such_field=1)

    is_pydantic = isinstance(caught.value, pydantic.ValidationError)
    assert is_pydantic is PROFILES[version].pydantic


def test_vllms_kv_dtypes_are_refused_in_2026_and_ignored_before(api):
    """§2.2."""
    assert api("1.2").KvCacheConfig(dtype="fp8_e5m2")

    with pytest.raises(pydantic.ValidationError, match="must be one of"):
        api("1.4").KvCacheConfig(dtype="fp8_e5m2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Eagle3DecodingConfig", "Draft model must be provided for EAGLE"),
        ("DraftTargetDecodingConfig", "must be specified for DraftTarget"),
    ],
)
def test_a_missing_draft_raises_where_the_object_is_made(api, name, text):
    """§7."""
    with pytest.raises(pydantic.ValidationError, match=text):
        getattr(api("1.2"), name)(max_draft_len=3)


def test_the_old_name_of_the_draft_is_an_alias(api):
    """§7."""
    config = api("1.2").Eagle3DecodingConfig(speculative_model_dir="draft")

    assert config.speculative_model == "draft"


@pytest.mark.parametrize(
    ("version", "advanced", "draws"),
    [
        ("1.2", False, False),
        ("1.2", True, True),
        ("1.3rc20", False, False),
        ("1.4", False, True),
    ],
)
def test_one_model_speculation_is_greedy_without_its_option(
    torch_llm, api, version, advanced, draws
):
    """§7: by 2026 each request decides, and the option has no effect."""
    config = api(version).MTPDecodingConfig(allow_advanced_sampling=advanced)
    llm = torch_llm(version, speculative_config=config)

    drawn = ids(llm, SHORT, **DRAW)

    assert (drawn != ids(llm, SHORT, max_tokens=16)) is draws


def test_two_model_speculation_draws(torch_llm, api):
    """§7."""
    config = api("1.2").NGramDecodingConfig(max_draft_len=3)
    llm = torch_llm("1.2", speculative_config=config)

    assert ids(llm, SHORT, **DRAW) != ids(llm, SHORT, max_tokens=16)


def test_the_cpp_sampler_is_rejected_where_it_is_removed(torch_llm):
    """§4.1; the other values are accepted and ignored."""
    assert torch_llm("1.4", sampler_type="TorchSampler")

    with pytest.raises(ValueError, match="removed"):
        torch_llm("1.4", sampler_type="TRTLLMSampler")


@pytest.mark.parametrize("version", ["0.12", "0.13", "0.21"])
def test_an_engine_is_for_inflight_batching_or_for_a_runner(cpp_llm, version):
    """§6: ``kv_cache_type``, and ``paged_kv_cache`` of the plugins up to 0.12."""
    with pytest.raises(RuntimeError, match="in-flight batching"):
        cpp_llm(version, build={"inflight": False})


def test_an_option_of_engines_is_refused_by_pytorch(torch_llm):
    """§2.1."""
    with pytest.raises(ValueError, match="specific to TensorRT backend"):
        torch_llm("1.2", build_config=None)


@pytest.mark.parametrize("version", ["0.12", "0.17", "0.18", "1.2"])
def test_results_are_aborted_from_0_19_on(cpp_llm, version):
    """§2.4: before, ``cancel`` exists and raises."""
    result = ask(cpp_llm(version), max_tokens=1)

    assert hasattr(result, "abort") is (version == "1.2")
    with pytest.raises(NotImplementedError):
        result.cancel()


def test_a_stream_of_interval_three_shows_one_then_every_third(torch_llm):
    """§2.4."""
    llm = torch_llm("1.2", stream_interval=3)
    stream = llm.generate_async(PROMPT, params(), streaming=True)

    assert [len(each.outputs[0].token_ids) for each in stream] == [1, 3, 6, 8]


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_cached_blocks_are_counted(torch_llm, version):
    """§2.4: whole blocks of 32."""
    llm = torch_llm(version)
    prompt = list(range(40, 120))
    ask(llm, prompt, max_tokens=1)

    assert ask(llm, prompt, max_tokens=1).cached_tokens == 64


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.4"])
def test_reused_blocks_corrupt_a_prompt_in_chunks_up_to_1_2(torch_llm, version):
    """§8: PRs #12673, #12769, #12786; whether 1.2.1 has them is open."""
    llm = torch_llm(version, max_num_tokens=64, enable_chunked_prefill=True)
    prompt = list(range(40, 140))

    first, again = ids(llm, prompt), ids(llm, prompt)

    assert (first != again) is (version != "1.4")
