# SPDX-License-Identifier: Apache-2.0

"""The fake's behaviour by version: what it honours, ignores, clips, counts and hides.

Each test is a fact about TensorRT-LLM with the section of
``docs/reference/tensorrt-llm.md`` that names its source. They ask the fake itself, as a
user of TensorRT-LLM would, without the plugin.
"""

from __future__ import annotations

import importlib
import math
import re

import pydantic
import pytest
import torch
from conftest import TINY
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trtllm_double import calls
from trtllm_double.profiles import PROFILES

PROMPT = list(range(40, 60))
SHORT = [40]
"""After a single token the next one is uncertain."""
ENGINES = ("0.12", "0.13", "0.14", "0.15", "0.16", "0.17", "0.18", "0.21", "1.2")
PYTORCH = ("1.0", "1.1rc0", "1.1", "1.2", "1.3rc20", "1.3rc24", "1.4", "main")
IN_CPP = {
    "1.0": {"enable_trtllm_sampler": True},
    "1.1rc0": {"use_torch_sampler": False},
    "1.1": {"sampler_type": "TRTLLMSampler"},
    "1.2": {"sampler_type": "TRTLLMSampler"},
    "1.3rc20": {"sampler_type": "TRTLLMSampler"},
    "1.3rc24": {"sampler_type": "TRTLLMSampler"},
}
"""The options that choose the C++ sampler (§4.1)."""
IN_TORCH = {"1.1rc0": {"use_torch_sampler": True}}
"""And those that choose the other one, where that is not the default."""


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


def params(**fields):
    """Make the parameters of a request without an EOS token, of eight tokens."""
    made = importlib.import_module("tensorrt_llm").SamplingParams
    old = "max_tokens" not in made.__dataclass_fields__
    names = {"max_tokens": "max_new_tokens", "seed": "random_seed"} if old else {}
    given = {"end_id": -1, "max_tokens": 8} | fields
    return made(**{names.get(name, name): value for name, value in given.items()})


def ids(llm, prompt=PROMPT, **fields):
    return list(ask(llm, prompt, **fields).outputs[0].token_ids)


def ask(llm, prompt=PROMPT, **fields):
    return llm.generate_async(list(prompt), params(**fields)).result()


DRAW = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 16}
ALL_CPP = (*ENGINES[:-1], *IN_CPP)


# ---------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_takes_the_best_token_up_to_1_0_whatever_is_asked(torch_llm, version):
    """§4.1, PR #6451; from 1.2.0rc0 on it draws (PR #7294). 1.1 is open."""
    llm = torch_llm(version)

    drawn = ids(llm, SHORT, **DRAW)

    is_greedy = version in ("1.0", "1.1rc0", "1.1")
    assert (drawn == ids(llm, SHORT, max_tokens=16)) is is_greedy


def test_the_mixed_sampler_of_1_0_draws_without_temperature(torch_llm):
    """§4.1: it ignores temperature, so a low one does not sharpen."""
    llm = torch_llm("1.0", enable_mixed_sampler=True)

    drawn = ids(llm, SHORT, temperature=0.001, top_p=1.0, max_tokens=16)

    assert drawn != ids(llm, SHORT, max_tokens=16)


@pytest.mark.parametrize("version", ALL_CPP)
def test_the_cpp_decoder_draws_and_repeats_its_seed(cpp_llm, version):
    """§4.4: seeded by the request, with 0 unless it sets a seed."""
    llm = cpp_llm(version)

    seeded = [ids(llm, SHORT, seed=7, **DRAW) for _ in range(2)]
    unset = ids(llm, SHORT, **DRAW)

    assert seeded[0] == seeded[1] != unset
    assert unset == ids(llm, SHORT, seed=0, **DRAW)


@pytest.mark.parametrize("version", ["1.2", "1.3rc20", "1.3rc24", "1.4"])
def test_one_generator_of_the_process_ignores_seeds(torch_llm, version):
    """§4.2: a seed does not repeat; a new process does."""
    llm = torch_llm(version)

    in_one = [ids(llm, SHORT, seed=7, **DRAW) for _ in range(2)]
    anew = ids(torch_llm(version), SHORT, seed=8, **DRAW)

    assert in_one[0] != in_one[1]
    assert in_one[0] == anew


def test_a_seed_repeats_only_in_the_first_row(torch_llm):
    """§4.2, PR #17172: FlashInfer reads the seed of the first row."""
    llm = torch_llm("main")
    alone = [ids(llm, SHORT, seed=7, **DRAW) for _ in range(2)]

    llm.generate_async([41], params(seed=1, **DRAW | {"max_tokens": 900}))
    beside = ids(llm, SHORT, seed=7, **DRAW)

    assert alone[0] == alone[1] != beside


@pytest.mark.parametrize("version", ALL_CPP)
def test_a_top_k_over_1024_is_clipped_with_a_log_message(cpp_llm, version, caplog):
    """§3, ``samplingTopKKernels.h``."""
    llm = cpp_llm(version)

    ids(llm, SHORT, temperature=1.0, top_k=1025, max_tokens=1)

    assert calls.of("clipped") == [{"top_k": 1025}]
    assert "larger than max supported (1024)" in caplog.text


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_the_sampler_of_pytorch_clips_no_top_k(torch_llm, version):
    ids(torch_llm(version), SHORT, temperature=1.0, top_k=1025, max_tokens=1)

    assert calls.of("clipped") == []


# ------------------------------------------------------------------ penalties and bans


def greedy_among(llm):
    """Return a prompt whose best next token stands in it."""
    prompt = list(PROMPT)
    while (best := ids(llm, prompt, max_tokens=1)[0]) not in prompt:
        prompt.append(best)
    return prompt


LARGE = {"presence_penalty": 1e4, "frequency_penalty": 1e4, "repetition_penalty": 1e4}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_ignores_penalties_up_to_1_3rc23(torch_llm, version, name):
    """§4.2, issue #9442, PR #16485. Where they work they count the prompt (§4.3)."""
    llm = torch_llm(version)
    prompt = greedy_among(llm)

    [plain] = ids(llm, prompt, max_tokens=1)
    [other] = ids(llm, prompt, max_tokens=1, **{name: LARGE[name]})

    ignored = version in ("1.0", "1.1rc0", "1.1", "1.2", "1.3rc20")
    assert (other == plain) is ignored


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("version", ALL_CPP)
def test_penalties_of_the_cpp_decoder_count_the_prompt(cpp_llm, version, name):
    """§4.3, ``penaltyKernels.cu``: the first new token is penalised already."""
    llm = cpp_llm(version)
    prompt = greedy_among(llm)

    [other] = ids(llm, prompt, max_tokens=1, **{name: LARGE[name]})

    assert ids(llm, prompt, max_tokens=1)[0] in prompt
    assert other not in prompt


@pytest.mark.parametrize("version", ["1.3rc24", "1.4", "main"])
def test_prompt_ignore_length_leaves_the_prompt_out_of_two_penalties(
    torch_llm, version
):
    """§4.3: presence and frequency; repetition sees all ids."""
    llm = torch_llm(version)
    prompt = greedy_among(llm)
    plain = ids(llm, prompt, max_tokens=1)

    def first(**penalty):
        ignored = len(prompt)
        return ids(llm, prompt, max_tokens=1, prompt_ignore_length=ignored, **penalty)

    assert first(presence_penalty=1e4) == first(frequency_penalty=1e4) == plain
    assert first(repetition_penalty=1e4) != plain


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_ignores_a_bias_in_1_0(torch_llm, version):
    """§4.2."""
    llm = torch_llm(version)

    [biased] = ids(llm, max_tokens=1, embedding_bias=towards(65))

    assert (biased == 65) is (version not in ("1.0", "1.1rc0", "1.1"))


def towards(token_id):
    bias = torch.zeros(512)
    bias[token_id] = 1e4
    return bias


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_ignores_banned_ids_before_it_has_token_ban(torch_llm, version):
    """§4.2, ``token_ban.py``, 2026."""
    llm = torch_llm(version)
    [best] = ids(llm, max_tokens=1)

    [other] = ids(llm, max_tokens=1, bad_token_ids=[best])

    assert (other != best) is (version in ("1.3rc24", "1.4", "main"))


@pytest.mark.parametrize("version", ALL_CPP)
def test_the_cpp_decoder_bans_ids(cpp_llm, version):
    llm = cpp_llm(version)
    [best] = ids(llm, max_tokens=1)

    assert ids(llm, max_tokens=1, bad_token_ids=[best]) != [best]


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_honours_min_p_from_1_4_on(torch_llm, version):
    """§4.2, PR #16590: the largest min_p leaves the best token alone."""
    llm = torch_llm(version)

    drawn = ids(llm, SHORT, min_p=1.0, **DRAW)

    honours = version in ("1.4", "main") or version in ("1.0", "1.1rc0", "1.1")
    assert (drawn == ids(llm, SHORT, max_tokens=16)) is honours  # or it is greedy


# ----------------------------------------------------------------------- where it ends


def free_run(llm):
    """Return greedy ids, and the place of one that did not come before."""
    free = ids(llm)
    at = next(i for i in range(1, 8) if free[i] not in free[:i])
    return free, at


@pytest.mark.parametrize("version", PYTORCH)
def test_pytorch_shows_the_eos_token(torch_llm, version):
    """§2.4: it is appended, then compared."""
    llm = torch_llm(version)
    free, at = free_run(llm)

    assert ids(llm, end_id=free[at]) == free[: at + 1]


@pytest.mark.parametrize("version", ALL_CPP)
def test_the_cpp_decoder_hides_the_eos_token(cpp_llm, version):
    """§2.4, ``samplingTopKKernels.cu``."""
    llm = cpp_llm(version)
    free, at = free_run(llm)

    assert ids(llm, end_id=free[at]) == free[:at]


@pytest.mark.parametrize("version", ["0.12", "0.15", "0.21", "1.2"])
def test_stop_ids_are_cut_unless_they_are_asked_for(cpp_llm, version):
    """§2.4: by the Python layer, which never cuts the EOS token."""
    llm = cpp_llm(version)
    free, at = free_run(llm)
    stop = {"stop_token_ids": [free[at]]}

    assert ids(llm, **stop) == free[:at]
    assert ids(llm, include_stop_str_in_output=True, **stop) == free[: at + 1]


def test_a_stop_id_as_the_last_token_ends_by_length_on_pytorch(torch_llm):
    """§2.4: the end, then the length, then stop words."""
    llm = torch_llm("1.2")
    free, at = free_run(llm)

    [completion] = ask(llm, stop_token_ids=[free[at]], max_tokens=at + 1).outputs

    assert completion.finish_reason == "length"
    assert completion.token_ids == free[: at + 1]


def test_results_of_0_11_hold_the_ids_themselves(api, engine_at):
    """§1.3: there is no CompletionOutput."""
    llm = api("0.11").LLM(str(engine_at(max_num_tokens=1024)), skip_tokenizer_init=True)

    asked = llm.generate_async(PROMPT, params())

    assert len(asked.result().token_ids) == 8
    assert not hasattr(asked, "outputs")
    llm.shutdown()


@pytest.mark.parametrize("version", ENGINES)
def test_reasons_come_with_0_14(cpp_llm, version):
    """§1.3: before, reading one is an AttributeError."""
    [completion] = ask(cpp_llm(version)).outputs

    if version in ("0.12", "0.13"):
        with pytest.raises(AttributeError):
            completion.finish_reason  # noqa: B018
    else:
        assert completion.finish_reason == "length"


@pytest.mark.parametrize("version", ENGINES)
def test_ignore_eos_and_detokenize_come_with_0_15(api, version):
    """§1.3: before, they are a TypeError, and ``end_id=-1`` runs on."""
    api(version)

    for name in ("ignore_eos", "detokenize"):
        if version in ("0.12", "0.13", "0.14"):
            with pytest.raises(
                TypeError, match=f"unexpected keyword argument '{name}'"
            ):
                params(**{name: True})
        else:
            assert params(**{name: True})


@pytest.mark.parametrize("version", ["1.2", "1.3rc20", "1.4"])
def test_ignore_eos_drops_stop_words_in_2026(torch_llm, version):
    """§3, ``base_worker.py``."""
    llm = torch_llm(version)
    free, at = free_run(llm)

    count = len(ids(llm, ignore_eos=True, stop_token_ids=[free[at]]))

    assert count == (at if version == "1.2" else 8)


@pytest.mark.parametrize("version", [*PYTORCH, "0.21"])
def test_min_tokens_holds_back_the_eos_token_alone(torch_llm, cpp_llm, version):
    """§3; ignored before 1.2, and in 1.2 the prompt counts (§4.2)."""
    llm = cpp_llm(version) if version == "0.21" else torch_llm(version)
    free, at = free_run(llm)

    held = len(ids(llm, end_id=free[at], min_tokens=8)) == 8
    stopped = len(ids(llm, stop_token_ids=[free[at]], min_tokens=8)) < 8

    assert held is (version in ("0.21", "1.3rc24", "1.4", "main"))
    assert stopped


# --------------------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.12", 9000), ("0.15", 9000), ("0.17", 9000), ("1.0", 9000), ("1.2", 8192)],
)
def test_an_engine_runs_with_8192_tokens_by_default_from_1_1_on(
    api, engine_at, version, expected
):
    """§2.1: the run-time number has a default, which the engine only lowers."""
    api(version)
    module = "tensorrt_llm" if version[0] == "0" else "tensorrt_llm._tensorrt_engine"
    path = engine_at(version, max_num_tokens=9000)

    importlib.import_module(module).LLM(str(path), skip_tokenizer_init=True)

    assert calls.of("max_num_tokens") == [{"number": expected}]


def test_an_engine_runs_with_the_number_that_is_passed(api, engine_at):
    api("1.2")
    path = engine_at(max_num_tokens=9000)

    importlib.import_module("tensorrt_llm._tensorrt_engine").LLM(
        str(path), skip_tokenizer_init=True, max_num_tokens=9000
    )

    assert calls.of("max_num_tokens") == [{"number": 9000}]


def test_a_prompt_over_max_num_tokens_dies_in_the_engine(cpp_llm):
    """§2.6: in C++, as the error of the request, when it is awaited."""
    llm = cpp_llm("0.21", build={"max_num_tokens": 64})
    future = llm.generate_async([1] * 100, params())

    with pytest.raises(RuntimeError, match=r"\(100\) exceeds maximum input length"):
        future.result()

    assert not future.finished  # so the caller has to abort (§2.4)


def test_an_engine_refuses_a_sum_that_pytorch_clamps(cpp_llm, torch_llm):
    """§2.6."""
    engine = cpp_llm("0.21", build={"max_seq_len": 64})
    on_pytorch = torch_llm("1.2", max_seq_len=64)

    with pytest.raises(ValueError, match="should not exceed max_seq_len"):
        ask(engine, [1] * 60, max_tokens=30)

    assert len(ids(on_pytorch, [1] * 60, max_tokens=30)) == 4


@pytest.mark.parametrize(
    ("version", "kind", "text"),
    [("1.2", ValueError, "max_num_tokens"), ("1.4", RuntimeError, "max_num_tokens")],
)
def test_pytorch_refuses_a_prompt_over_max_num_tokens(torch_llm, version, kind, text):
    """§2.6: a RequestError in 2026."""
    llm = torch_llm(version, max_num_tokens=64)

    with pytest.raises(kind, match=text):
        ask(llm, [1] * 100)


# ------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("version", ["1.2", "1.3rc20", "1.4"])
def test_log_probabilities_are_those_before_temperature(torch_llm, version):
    """§4.5: a dict a token, the sampled one first, with ranks."""
    llm = torch_llm(version)

    [cold] = ask(llm, SHORT, logprobs=3, max_tokens=2).outputs
    [hot] = ask(llm, SHORT, logprobs=3, max_tokens=1, temperature=2.0).outputs

    first = cold.logprobs[0]
    assert len(cold.logprobs) == 2
    assert next(iter(first)) == cold.token_ids[0]
    assert first[cold.token_ids[0]].rank == 1
    same = [t for t in first if t in hot.logprobs[0]]
    assert all(math.isclose(first[t].logprob, hot.logprobs[0][t].logprob) for t in same)
    assert same


def test_a_bias_is_in_the_log_probabilities(torch_llm):
    """§4.5: bias, penalties and bans are written into the logits before."""
    llm = torch_llm("1.4")

    [biased] = ask(llm, logprobs=1, max_tokens=1, embedding_bias=towards(65)).outputs

    assert biased.logprobs[0][65].logprob == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("version", "shown"), [("1.2", 0), ("1.4", 1)])
def test_logprobs_of_zero_are_off_in_2025(torch_llm, version, shown):
    """§4.5."""
    [completion] = ask(torch_llm(version), logprobs=0, max_tokens=1).outputs

    assert len(completion.logprobs) == shown


def test_prompt_logprobs_end_with_the_first_new_token(torch_llm):
    """§4.5: and without those of cached blocks, while blocks are reused."""
    llm = torch_llm("1.2")
    prompt = list(range(40, 120))

    [first] = ask(llm, prompt, prompt_logprobs=0, max_tokens=1).outputs
    [again] = ask(llm, prompt, prompt_logprobs=0, max_tokens=1).outputs

    assert [next(iter(each)) for each in first.prompt_logprobs] == [
        *prompt[1:],
        first.token_ids[0],
    ]
    assert len(again.prompt_logprobs) == 80 - 64


def test_an_engine_needs_gathered_logits_for_log_probabilities(cpp_llm):
    """§4.5."""
    with pytest.raises(RuntimeError, match="gather_generation_logits"):
        ask(cpp_llm("0.21"), logprobs=1)

    gathers = cpp_llm("0.21", build={"gather_generation_logits": True})
    [completion] = ask(gathers, logprobs=1, max_tokens=3).outputs
    assert [next(iter(each)) for each in completion.logprobs] == completion.token_ids


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


# -------------------------------------------------------- guided decoding and adapters


GUIDES = {
    "json": ({"type": "object", "properties": {"a": {"type": "integer"}}}, r"\{.*\}"),
    "regex": ("ab+c", r"ab+c"),
    "grammar": ('start: "yes" | "no"', r"yes|no"),
    "json_object": (True, r"\{.*\}"),
}


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("version", ["1.0", "1.2", "1.4"])
def test_a_guide_needs_the_tokenizer_and_ends_at_its_eos_token(api, version, kind):
    """§4.6."""
    module = api(version)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    guide, text = GUIDES[kind]
    llm = module.LLM(
        str(TINY), tokenizer=str(TINY), guided_decoding_backend="llguidance"
    )

    asked = {"guided_decoding": module.GuidedDecodingParams(**{kind: guide})}
    [completion] = ask(
        llm, end_id=tokenizer.eos_token_id, max_tokens=40, **asked
    ).outputs

    assert completion.finish_reason in ("stop", "length")
    if completion.finish_reason == "stop":
        answer = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        assert re.fullmatch(text, answer, re.DOTALL)
    llm.shutdown()


def test_a_guide_is_refused_without_a_tokenizer(torch_llm, api):
    """§4.6."""
    guide = api("1.2").GuidedDecodingParams(regex="a")
    llm = torch_llm("1.2", guided_decoding_backend="xgrammar")

    with pytest.raises(RuntimeError, match="needs the tokenizer"):
        ask(llm, guided_decoding=guide)


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_a_request_with_an_adapter_has_its_own_weights(torch_llm, version, tmp_path):
    """§8: beside requests without one."""
    adapter = make_adapter(tmp_path)
    llm = torch_llm(version, enable_lora=True)
    requests = importlib.import_module("tensorrt_llm.executor.request")

    plain, adapted = (
        list(
            llm.generate_async(PROMPT, params(), lora_request=request)
            .result()
            .outputs[0]
            .token_ids
        )
        for request in (None, requests.LoRARequest("one", 1, str(adapter)))
    )

    assert plain == ids(llm) != adapted


def make_adapter(folder):
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_alpha=200)
    config.init_lora_weights = False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def test_a_bad_adapter_fails_its_request(torch_llm, tmp_path):
    """§8."""
    llm = torch_llm("1.2", enable_lora=True)
    requests = importlib.import_module("tensorrt_llm.executor.request")
    bad = requests.LoRARequest("none", 2, str(tmp_path))

    with pytest.raises(RuntimeError, match="Failed to load LoRA adapter none"):
        llm.generate_async(PROMPT, params(), lora_request=bad)


def test_a_batch_with_speculation_shares_its_random_numbers(torch_llm, api):
    """§7, issue #19487: the same prompt twice gives the same sample twice."""
    config = api("1.4").MTPDecodingConfig()
    llm = torch_llm("1.4", speculative_config=config)

    # Both wait for the same round, because a long prompt is computed before.
    llm.generate_async([1] * 500, params(max_tokens=400))
    pending = [llm.generate_async(list(SHORT), params(**DRAW)) for _ in range(2)]
    samples = [each.result().outputs[0].token_ids for each in pending]

    assert samples[0] == samples[1]


# -------------------------------------------------------------------- the runners (§5)


@pytest.mark.parametrize("version", ["0.11", "0.12", "0.13", "0.14", "0.17", "1.2"])
def test_the_runner_of_0_13_drops_seeds(install, engine_at, version):
    """§4.4: ``random_seed`` is not among the names that it accepts."""
    install(version)
    runner_class = importlib.import_module("tensorrt_llm.runtime").ModelRunnerCpp
    runner = runner_class.from_dir(str(engine_at()))

    def sample(seed):
        output = runner.generate(
            [torch.tensor(SHORT, dtype=torch.int32)],
            max_new_tokens=16,
            end_id=511,
            pad_id=511,
            temperature=2.0,
            top_p=1.0,
            random_seed=seed,
        )
        return output[0, 0, 1:17].tolist()

    assert (sample(1) == sample(2)) is (version == "0.13")


@pytest.mark.parametrize("name", ["ModelRunner", "ModelRunnerCpp"])
def test_banned_words_of_a_runner_may_begin_in_the_prompt(install, engine_at, name):
    """§3, ``banBadWords.cu``."""
    install("0.21")
    runner_class = getattr(importlib.import_module("tensorrt_llm.runtime"), name)
    runner = runner_class.from_dir(str(engine_at(inflight=name == "ModelRunnerCpp")))

    def first(**fields):
        output = runner.generate(
            [torch.tensor(PROMPT, dtype=torch.int32)],
            max_new_tokens=1,
            end_id=511,
            pad_id=511,
            **fields,
        )
        return output[0, 0, len(PROMPT)].item()

    best = first()

    assert first(bad_words_list=[[[PROMPT[-1], best]]]) != best
    assert first(bad_words_list=[[[PROMPT[0], best]]]) == best
