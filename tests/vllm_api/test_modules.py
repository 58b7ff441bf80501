# SPDX-License-Identifier: Apache-2.0

"""The modules that have vLLM's paths, and the values in them."""

from __future__ import annotations

import dataclasses
import time

import pytest

from unillm import LLM, EngineArgs, LLMEngine, SamplingParams
from unillm.errors import GeneratorClosedError
from unillm.vllm_api.engine_args import recorded_defaults
from unillm.vllm_api.entrypoints.chat_utils import resolve_hf_chat_template
from unillm.vllm_api.tokenizers import get_tokenizer
from unillm.vllm_api.utils.argparse_utils import FlexibleArgumentParser

COUNT = "Count from 3 to 9:"


@pytest.fixture(scope="module")
def tiny():
    with LLM("unillm/tiny", backend="transformers", max_model_len=128) as llm:
        yield llm


# ------------------------------------------------------------------- engine arguments


def parsed(*arguments):
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parser.set_defaults(model="unillm/tiny")
    parser.add_argument_group("of the program").add_argument("--my_own", type=int)
    return parser.parse_args(arguments)


def test_the_arguments_of_a_command_line_create_a_model():
    args = vars(parsed("--max_model_len", "64", "--dtype=float32", "--my-own", "5"))

    assert args.pop("my_own") == 5
    with LLM(backend="transformers", **args) as llm:
        assert llm.generator.limits.max_model_len == 64
        assert llm.generate(COUNT, use_tqdm=False)[0].text == "3 4 5 6 7 8 9"


@pytest.mark.parametrize("as_dict", [vars, dataclasses.asdict])
def test_engine_args_become_arguments_of_a_model(monkeypatch, as_dict):
    monkeypatch.setenv("UNILLM_BACKEND", "transformers")
    args = EngineArgs.from_cli_args(parsed("-tp", "1", "--max-num-seqs", "3"))

    for create in (lambda: LLM(**as_dict(args)), lambda: LLM.from_engine_args(args)):
        with create() as llm:
            assert llm.generator.limits.max_num_seqs == 3


def test_the_values_of_a_command_line_have_the_types_of_the_arguments():
    args = parsed(
        *("--max-logprobs", "5", "--trust-remote-code", "--max-model-len", "64"),
        *("--speculative-config", '{"method": "ngram"}', "--quantization", "awq"),
        *("--no-enable-lora", "--gpu-memory-utilization", "0.5"),
    )

    assert (args.max_logprobs, args.trust_remote_code, args.max_model_len) == (
        *(5, True, 64),
    )
    assert args.speculative_config == {"method": "ngram"}
    assert (args.quantization, args.enable_lora) == ("awq", False)
    assert args.gpu_memory_utilization == 0.5


def test_engine_args_have_the_fields_of_vllm_and_no_others():
    fields = {field.name for field in dataclasses.fields(EngineArgs)}

    assert fields - {"model"} == {n for n in recorded_defaults() if n[0] != "_"}
    assert EngineArgs("a").model == "a"
    assert EngineArgs().compilation_config is not EngineArgs().compilation_config
    with pytest.raises(TypeError, match="max_model_length"):
        EngineArgs(max_model_length=5)


# -------------------------------------------------------------------- the engine, read


def test_facts_about_the_model_are_where_vllm_has_them(tiny):
    import torch

    config = tiny.llm_engine.model_config
    assert config == tiny.model_config == tiny.llm_engine.vllm_config.model_config
    assert (config.model, config.tokenizer) == ("unillm/tiny", "unillm/tiny")
    assert (config.max_model_len, config.get_vocab_size()) == (128, 512)
    assert (config.dtype, config.hf_config.model_type) == (torch.float32, "llama")
    revisions = (config.revision, config.tokenizer_revision, config.code_revision)
    assert revisions == (None, None, None)
    assert (config.max_logprobs, config.seed, config.quantization) == (20, 0, None)
    assert tiny.llm_engine.tokenizer is tiny.get_tokenizer()
    assert tiny.llm_engine.get_tokenizer() is tiny.get_tokenizer()


def test_the_dtype_is_the_one_that_was_asked_for():
    import torch

    with LLM("unillm/tiny", backend="transformers", dtype="bfloat16") as llm:
        assert llm.model_config.dtype is torch.bfloat16


@pytest.mark.parametrize("owner", ["llm_engine", "model_config"])
def test_the_engine_cannot_be_reached_or_changed(tiny, owner):
    view = getattr(tiny, owner)

    with pytest.raises(
        AttributeError, match=r"no attribute 'model_executor': .*submit"
    ):
        view.model_executor  # noqa: B018
    with pytest.raises(AttributeError):
        view.model_config = 5


def test_metrics_count_requests_and_tokens_under_vllms_names():
    from unillm.vllm_api.v1.metrics.reader import Counter, Gauge

    with LLM("unillm/tiny", backend="transformers") as llm:
        outputs = llm.generate([COUNT] * 3, use_tqdm=False)
        metrics = {each.name: each for each in llm.get_metrics()}

    assert metrics["vllm:generation_tokens"].value == sum(
        len(each.token_ids) for each in outputs
    )
    assert metrics["vllm:prompt_tokens"].value == 3 * len(outputs[0].prompt_token_ids)
    assert isinstance(metrics["vllm:request_success"], Counter)
    assert metrics["vllm:request_success"].value == 3
    assert isinstance(metrics["vllm:num_requests_running"], Gauge)
    assert metrics["vllm:num_requests_running"].value == 0


# ----------------------------------------------------------------- an engine, by steps


def steps_of(engine, limit=1000):
    """Return the outputs of all steps until no request is left."""
    outputs = []
    while engine.has_unfinished_requests() and limit:
        limit -= 1
        outputs += engine.step()
    return outputs


@pytest.fixture(scope="module")
def engine():
    args = EngineArgs("unillm/tiny", max_model_len=128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNILLM_BACKEND", "transformers")
        return LLMEngine.from_engine_args(args)


def test_steps_return_all_tokens_so_far_until_every_request_has_ended(engine):
    greedy = SamplingParams(temperature=0, max_tokens=20)
    engine.add_request("numbers", COUNT, greedy)
    engine.add_request("sum", {"prompt": "Add 17 and 25:"}, greedy, arrival_time=None)

    outputs = steps_of(engine)

    ended = {each.request_id: each.text for each in outputs if each.finished}
    assert ended == {"numbers": "3 4 5 6 7 8 9", "sum": "42"}
    for name, text in ended.items():
        texts = [each.text for each in outputs if each.request_id == name]
        assert all(text.startswith(each) for each in texts)
        assert texts == sorted(texts, key=len)
    assert engine.step() == []


def test_an_aborted_request_has_no_more_outputs(engine):
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    for name in ("a", "b", "c"):
        engine.add_request(name, COUNT, params)
    assert engine.get_num_unfinished_requests() == 3

    engine.abort_request("a")
    engine.abort_request(["b", "unknown"])

    assert {each.request_id for each in steps_of(engine)} == {"c"}


def test_a_request_that_fails_takes_no_output_of_another_one():
    with LLM("unillm/tiny", backend="transformers", max_num_seqs=1) as llm:
        engine = llm.llm_engine
        engine.add_request("whole", COUNT, SamplingParams(temperature=0))
        for name in range(20):
            params = SamplingParams(max_tokens=100, ignore_eos=True)
            engine.add_request(str(name), COUNT, params)
        while llm.get_metrics()[2].value == 0:  # until the first has ended
            time.sleep(0.001)
    texts, failed = {}, 0
    while engine.has_unfinished_requests():
        try:
            texts |= {each.request_id: each.text for each in engine.step()}
        except GeneratorClosedError:
            failed += 1

    assert texts["whole"] == "3 4 5 6 7 8 9"
    assert failed + len(texts) == 21
    assert failed > 0


def test_a_request_that_cannot_be_added_is_refused(engine):
    engine.add_request("a", COUNT, SamplingParams())
    with pytest.raises(ValueError, match="is that of an unfinished request"):
        engine.add_request("a", COUNT, SamplingParams())
    with pytest.raises(ValueError, match="cannot honour trace_headers"):
        engine.add_request("b", COUNT, SamplingParams(), trace_headers={"a": "b"})
    with pytest.raises(ValueError, match="The prompt has 500 tokens"):
        engine.add_request("b", [5] * 500, SamplingParams())
    assert [each.request_id for each in steps_of(engine)][-1] == "a"


def test_an_llms_own_engine_takes_requests_too(tiny):
    tiny.llm_engine.add_request("a", COUNT, SamplingParams(temperature=0))

    assert steps_of(tiny.llm_engine)[-1].text == "3 4 5 6 7 8 9"


# ------------------------------------------------------------------------ token ids only


def test_without_a_tokenizer_prompts_and_outputs_are_token_ids(tiny):
    ids = tiny.get_tokenizer().encode(COUNT)
    [expected] = tiny.generate(COUNT, use_tqdm=False)

    with LLM("unillm/tiny", backend="transformers", skip_tokenizer_init=True) as llm:
        for params in (None, SamplingParams(temperature=0)):
            [output] = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)
            assert (output.text, output.token_ids) == ("", expected.token_ids)
        for prompt in (COUNT, [COUNT], {"prompt": COUNT}):
            with pytest.raises(ValueError, match="takes prompts of token ids"):
                llm.generate(prompt)
        with pytest.raises(ValueError, match="takes prompts of token ids"):
            llm.chat([{"role": "user", "content": COUNT}])


# ----------------------------------------------------------------------- the tokenizer


def test_the_tokenizer_of_a_model_is_found_by_its_name():
    tokenizer = get_tokenizer("unillm/tiny", tokenizer_mode="auto", revision="main")

    template = resolve_hf_chat_template(tokenizer, None, None, model_config=None)
    assert template == tokenizer.chat_template
    assert resolve_hf_chat_template(tokenizer, "{{ 1 }}", None) == "{{ 1 }}"
    tokenizer.chat_template = None
    assert resolve_hf_chat_template(tokenizer, None, None) is None


@pytest.mark.parametrize(
    "options", [{"tokenizer_mode": "mistral"}, {"revision": "5f3a"}]
)
def test_a_tokenizer_in_another_way_is_refused(options):
    with pytest.raises(ValueError, match="get_tokenizer takes"):
        get_tokenizer("unillm/tiny", **options)


# --------------------------------------------------------------------------- exceptions


def test_a_refusal_is_a_validation_error_of_vllms_name(tiny):
    from unillm.vllm_api.exceptions import VLLMClientError, VLLMValidationError

    too_long = "Hello " * 500
    with pytest.raises(VLLMValidationError, match="temperature"):
        SamplingParams(temperature=-1)
    with pytest.raises(VLLMValidationError, match="decoder prompt cannot be empty"):
        tiny.generate("", use_tqdm=False)
    for prompts in (too_long, [COUNT, too_long]):
        with pytest.raises(VLLMValidationError, match="maximum context length is"):
            tiny.generate(prompts, use_tqdm=False)
    with pytest.raises(VLLMClientError, match="3 prompts and 2 priority"):
        tiny.generate([COUNT] * 3, priority=[0, 1], use_tqdm=False)
