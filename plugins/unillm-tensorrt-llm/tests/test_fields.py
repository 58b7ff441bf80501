# SPDX-License-Identifier: Apache-2.0

"""Fields that a version has, and the options that enable them."""

from __future__ import annotations

import importlib

import pytest
from conftest import TINY
from trtllm_double import calls
from unillm_tensorrt_llm import TensorRTLLMBackend
from unillm_tensorrt_llm._capabilities import on_engines, on_runners
from unillm_tensorrt_llm._entry_paths import EntryPath, Installed
from unillm_tensorrt_llm._sampler import Sampler, choose_sampler

from unillm import LoRARequest, SamplingParams
from unillm.backend import Support
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    UnsupportedParameterError,
)

PROMPT = "Count from 3 to 9:"
WITH_CPP = ("1.0", "1.1rc0", "1.1", "1.2", "1.3rc20", "1.3rc24")


def greedy(**fields):
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, **fields})


def test_an_error_of_another_backend_promises_nothing_that_versions_lack():
    """The backend is asked without an import of TensorRT-LLM."""
    found = TensorRTLLMBackend().capabilities

    assert found.of("seed").support is Support.UNSUPPORTED
    assert found.of("temperature").support is Support.NATIVE
    assert "the installed version decides" in found.of("logprobs").reason


# ------------------------------------------------------------------------ the sampler


@pytest.mark.parametrize(
    ("version", "argument"),
    [
        ("1.0", {"enable_trtllm_sampler": True}),
        ("1.1rc0", {"use_torch_sampler": False}),
        ("1.1", {"sampler_type": "TRTLLMSampler"}),
        ("1.2", {"sampler_type": "TRTLLMSampler"}),
        ("1.3rc20", {"sampler_type": "TRTLLMSampler"}),
        ("1.4", {}),
        ("main", {}),
    ],
)
def test_the_cpp_decoder_is_chosen_where_the_argument_class_has_an_option(
    install, open_generator, version, argument
):
    install(version)

    open_generator()

    [made] = calls.of("LLM")
    names = ("enable_trtllm_sampler", "use_torch_sampler", "sampler_type")
    assert {name: made[name] for name in names if name in made} == argument


@pytest.mark.parametrize(
    ("version", "options", "sampler"),
    [
        ("1.0", {"enable_trtllm_sampler": False}, Sampler.TORCH),
        ("1.2", {"sampler_type": "auto"}, Sampler.TORCH),
        ("1.2", {"sampler_type": "TRTLLMSampler"}, Sampler.CPP),
        ("1.4", {"sampler_type": "TRTLLMSampler"}, Sampler.TORCH),
    ],
)
def test_the_users_option_chooses_the_sampler(install, version, options, sampler):
    install(version)
    left = dict(options)

    chosen = choose_sampler(Installed.look(), left)

    assert (chosen.sampler, chosen.arguments, left) == (sampler, options, {})


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_sampler_that_takes_the_best_token_alone_serves_greedy_requests_alone(
    install, open_generator, reference, version
):
    install(version)
    option = {"1.0": {"enable_trtllm_sampler": False}}.get(
        version, {"sampler_type": "TorchSampler"}
    )
    generator = open_generator(backend_options=option)
    calls.clear()

    for params in (SamplingParams(), SamplingParams(temperature=0.1)):
        with pytest.raises(UnsupportedParameterError, match="takes the most probable"):
            generator.generate(PROMPT, params)

    assert calls.of("generate_async") == []
    [output] = generator.generate(PROMPT, greedy(max_tokens=40))
    [expected] = reference.generate(PROMPT, greedy(max_tokens=40))
    assert output.token_ids == expected.token_ids


def test_a_large_top_k_is_refused_where_the_cpp_decoder_would_cut_it(install):
    install("1.2")
    on_cpp = (
        on_engines(Installed.look(), speculates=False),
        on_runners(takes_seeds=True),
    )

    for capabilities in on_cpp:
        found = capabilities.of("top_k.large")
        assert found.support is Support.UNSUPPORTED
        assert "cuts it to 1024" in found.reason


@pytest.mark.parametrize("version", ["0.21", "1.2", "1.4"])
def test_a_top_k_of_the_whole_vocabulary_is_none(install, open_generator, version):
    """A larger one than the vocabulary's keeps all tokens, and nothing is cut."""
    install(version)

    open_generator().generate(PROMPT, SamplingParams(top_k=5000, max_tokens=2))

    assert calls.of("generate_async")[-1]["params"]["top_k"] == 0
    assert calls.of("clipped") == []


# ----------------------------------------------------- penalties, bans, minimal lengths


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_that_counts_the_prompt_is_refused(profile, open_generator, field):
    generator = open_generator()
    params = greedy(max_tokens=16, **{field: 1.5})
    if not profile.cpp_sampler:
        assert generator.generate(PROMPT, params)
        length = len(generator.get_tokenizer().encode(PROMPT))
        sent = calls.of("generate_async")[-1]["params"]
        assert sent["prompt_ignore_length"] == length
        return

    with pytest.raises(UnsupportedParameterError, match="counts the tokens of the p"):
        generator.generate(PROMPT, params)


def test_a_bad_word_of_one_token_is_banned(profile, open_generator, reference):
    params = greedy(bad_words=["5"])

    [output] = open_generator().generate(PROMPT, params)

    [expected] = reference.generate(PROMPT, params)
    assert output.token_ids == expected.token_ids
    assert "5" not in output.text


def test_min_tokens_holds_back_a_single_stop_id(profile, open_generator, reference):
    generator = open_generator()
    params = greedy(min_tokens=6, stop_token_ids=[220], ignore_eos=True)
    if profile.llm is None:  # the runners
        with pytest.raises(UnsupportedParameterError, match="anew in each run"):
            generator.generate(PROMPT, params)
        return

    [output] = generator.generate(PROMPT, params)

    [expected] = reference.generate(PROMPT, params)
    assert output.token_ids == expected.token_ids
    assert 220 not in output.token_ids[:6]


def test_fields_that_forbid_every_token_together_are_refused(install, open_generator):
    install("1.2")
    params = greedy(
        allowed_token_ids=[220], min_tokens=3, stop_token_ids=[220], ignore_eos=True
    )

    with pytest.raises(ValueError, match="forbid every token"):
        open_generator().generate(PROMPT, params)


# ------------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize("version", ["1.4", "main"])
@pytest.mark.parametrize("count", [0, 1, 4, -1])
def test_logprobs_are_those_of_the_embedded_backend(
    install, open_generator, reference, version, count
):
    install(version)
    params = greedy(logprobs=count, max_tokens=4)

    [output] = open_generator(max_logprobs=-1).generate(PROMPT, params)

    with reference_with(max_logprobs=-1) as other:
        [expected] = other.generate(PROMPT, params)
    assert_same(output.outputs[0].logprobs, expected.outputs[0].logprobs)


def reference_with(**options):
    from unillm import Generator

    return Generator(
        "unillm/tiny",
        backend="transformers",
        dtype="float32",
        enforce_eager=True,
        **options,
    )


def assert_same(found, expected):
    """Log-probabilities agree but for rounding, which may swap ranks of a tie."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.keys() == other.keys()
        for token_id, at in other.items():
            rest = [
                each.logprob for other_id, each in other.items() if other_id != token_id
            ]
            tied = any(abs(each - at.logprob) < 1e-3 for each in rest)
            assert one[token_id].logprob == pytest.approx(at.logprob, abs=1e-3)
            assert tied or one[token_id].rank == at.rank


@pytest.mark.parametrize("version", WITH_CPP)
def test_logprobs_of_the_cpp_decoder_are_refused(install, open_generator, version):
    install(version)

    with pytest.raises(UnsupportedParameterError, match="before temperature"):
        open_generator().generate(PROMPT, greedy(logprobs=1))


def test_prompt_logprobs_need_whole_prompts_without_shared_prefixes(
    install, open_generator, reference
):
    install("1.4")
    params = greedy(prompt_logprobs=2, max_tokens=2)
    refused = {
        "enable_prefix_caching=False": {},
        "max_num_batched_tokens of at least": {
            "enable_prefix_caching": False,
            "max_num_batched_tokens": 64,
        },
    }
    for match, options in refused.items():
        with pytest.raises(UnsupportedParameterError, match=match):
            open_generator(**options).generate(PROMPT, params)

    generator = open_generator(enable_prefix_caching=False)
    twice = generator.generate([PROMPT, PROMPT], params)

    [expected] = reference.generate(PROMPT, params)
    for output in twice:
        assert_same(output.prompt_logprobs, expected.prompt_logprobs)


# ------------------------------------------------- structures, adapters, cached tokens

LLGUIDANCE = {"guided_decoding_backend": "llguidance"}


@pytest.mark.parametrize("version", ["1.2", "main"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"regex": "[0-9]{3}-[a-z]{2}"},
        {"choice": ["blue whale", 'a "cat"']},
        {"grammar": 'start: "x" DIGIT+\nDIGIT: /[0-9]/'},
        {"json": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        {
            "json": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "disable_any_whitespace": True,
        },
        {"json_object": True},
    ],
    ids=["regex", "choice", "grammar", "json", "no spaces", "json_object"],
)
def test_structures_are_those_of_the_embedded_backend(
    install, open_generator, reference, version, wanted
):
    install(version)
    params = greedy(structured_outputs=wanted, max_tokens=24)

    [output] = open_generator(backend_options=LLGUIDANCE).generate(PROMPT, params)

    [expected] = reference.generate(PROMPT, params)
    assert output.text == expected.text
    assert output.finish_reason == expected.finish_reason


def test_structures_need_an_option_that_loads_a_tokenizer(install, open_generator):
    install("1.2")
    params = greedy(structured_outputs={"json_object": True})

    with pytest.raises(UnsupportedParameterError, match="guided_decoding_backend"):
        open_generator().generate(PROMPT, params)
    with pytest.raises(ConfigError, match="must be 'llguidance', got 'xgrammar'"):
        open_generator(backend_options={"guided_decoding_backend": "xgrammar"})
    assert calls.of("LLM")[0]["skip_tokenizer_init"] is True


def test_a_library_that_the_version_lacks_is_refused(
    install, open_generator, monkeypatch
):
    install("1.2")
    args = importlib.import_module("tensorrt_llm.llmapi.llm_args").TorchLlmArgs
    monkeypatch.setattr(args.model_fields["guided_decoding_backend"], "annotation", str)

    with pytest.raises(BackendUnavailableError, match="has no llguidance"):
        open_generator(backend_options=LLGUIDANCE)


@pytest.mark.parametrize("version", ["1.2", "1.4", "main"])
def test_requests_with_and_without_an_adapter_share_a_batch(
    install, open_generator, adapter, version
):
    install(version)
    generator = open_generator(enable_lora=True, max_lora_rank=8)
    with reference_with(enable_lora=True, max_lora_rank=8) as other:
        expected = other.generate([PROMPT] * 2, greedy(), lora_request=[None, adapter])

    outputs = generator.generate([PROMPT] * 2, greedy(), lora_request=[None, adapter])

    assert [o.token_ids for o in outputs] == [o.token_ids for o in expected]
    assert outputs[0].token_ids != outputs[1].token_ids


def test_an_adapter_needs_enable_lora(install, open_generator, adapter):
    install("1.2")

    with pytest.raises(UnsupportedParameterError, match="enable_lora=True"):
        open_generator().generate(PROMPT, greedy(), lora_request=adapter)


@pytest.fixture
def adapter(tmp_path):
    """Write an adapter that changes the answers of the bundled model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=200)
    config.init_lora_weights = False
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return LoRARequest("wild", 1, tmp_path / "adapter")


@pytest.mark.parametrize("version", ["1.3rc24", "1.4", "main"])
def test_cached_tokens_are_counted_where_results_have_them(
    install, open_generator, version
):
    install(version)
    generator = open_generator(max_num_batched_tokens=1024)
    prompt = [[1 + n % 90 for n in range(200)]]

    [first] = generator.generate(prompt, greedy())
    [second] = generator.generate(prompt, greedy())

    assert first.num_cached_tokens == 0
    assert 100 < second.num_cached_tokens < 200


# ----------------------------------------------------- numbers of the run, and chunks


@pytest.mark.parametrize("version", ["1.1", "1.2", "1.3rc20"])
def test_an_engine_for_long_prompts_gets_them(
    install, open_generator, engine_at, version
):
    """The class would lower its run-time tokens to 8192."""
    install(version)
    path = engine_at(max_num_tokens=32768, max_batch_size=3)

    open_generator(path, tokenizer=TINY)
    open_generator(path, tokenizer=TINY, max_num_seqs=2)

    made = [
        (each["max_num_tokens"], each["max_batch_size"]) for each in calls.of("LLM")
    ]
    assert made == [(32768, 3), (32768, 2)]


@pytest.mark.parametrize("version", ["0.12", "0.15", "0.16"])
def test_a_version_without_run_time_numbers_gets_none(
    install, open_generator, engine_at, version
):
    install(version)

    open_generator(engine_at(), tokenizer=TINY)

    assert not {"max_num_tokens", "max_batch_size"} & calls.of("LLM")[-1].keys()
    assert "max_num_tokens" not in Installed.look().arguments_of(EntryPath.ENGINE)


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_prefixes_are_not_shared_where_chunks_would_corrupt_them(
    install, open_generator, reference, version
):
    install(version)
    generator = open_generator(max_num_batched_tokens=64)
    prompts = [[1 + n % 90 for n in range(150)] + [last] for last in (7, 8)]

    outputs = [generator.generate([each], greedy())[0] for each in prompts * 2]

    expected = reference.generate(prompts * 2, greedy())
    assert [o.token_ids for o in outputs] == [o.token_ids for o in expected]
    made = calls.of("LLM")[-1]["kv_cache_config"]
    assert made.enable_block_reuse is False


def test_sharing_prefixes_of_chunks_is_refused_where_it_corrupts(
    install, open_generator
):
    install("1.2")

    with pytest.raises(ConfigError, match="gives wrong tokens"):
        open_generator(max_num_batched_tokens=64, enable_prefix_caching=True)

    install("1.4")
    assert open_generator(max_num_batched_tokens=64, enable_prefix_caching=True)
