# SPDX-License-Identifier: Apache-2.0

"""Requests on the fake: their ends, lengths, guides and adapters.

Each test is a fact about TensorRT-LLM with the section of
``docs/reference/tensorrt-llm.md`` that names its source.
"""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from asking import (
    ALL_CPP,
    DRAW,
    ENGINES,
    PROMPT,
    PYTORCH,
    SHORT,
    ask,
    free_run,
    ids,
    params,
)
from conftest import TINY
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trtllm_double import calls

# ----------------------------------------------------------------------- where it ends


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


# -------------------------------------------------------- guided decoding and adapters


GUIDES = {
    "json": ({"enum": ["a", "b"]}, r'"[ab]"'),
    "regex": ("ab{1,3}c", r"ab{1,3}c"),
    "grammar": ('start: "yes" | "no"', r"yes|no"),
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

    answer = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert completion.finish_reason == "stop"
    assert re.fullmatch(text, answer)
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
