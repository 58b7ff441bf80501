# SPDX-License-Identifier: Apache-2.0

"""Known pitfalls of TensorRT-LLM, one test each, in every version family."""

from __future__ import annotations

import sys
import time

import pytest
from conftest import TINY
from trtllm_double import calls

from unillm import SamplingParams
from unillm.errors import (
    ConfigError,
    PromptTooLongError,
    RequestFailedError,
    RequestsFailedError,
    TokenizerError,
    UnsupportedParameterError,
)

GREEDY = SamplingParams(temperature=0, max_tokens=40)
PROMPTS = ["Count from 3 to 9:", "Add 17 and 25:", "Spell the word apple:"]


def test_ids_become_text(profile, open_generator, reference):
    outputs = open_generator().generate(PROMPTS, GREEDY)

    expected = reference.generate(PROMPTS, GREEDY)
    assert [o.text for o in outputs] == [o.text for o in expected]
    assert [o.token_ids for o in outputs] == [o.token_ids for o in expected]


def test_every_eos_token_of_the_model_ends_a_request(
    profile, open_generator, reference
):
    """The API takes one end_id and ignores the others of a checkpoint."""
    generator = open_generator()
    end = generator.eos.primary
    others = sorted(generator.eos_token_ids - {end})

    assert len(generator.eos_token_ids) == 3
    for token_id in (end, *others):
        params = SamplingParams(
            temperature=0, max_tokens=8, logit_bias={token_id: 100.0}
        )
        if profile.llm is None:  # its runner takes no bias, so the model ends by itself
            params = GREEDY
        [output] = generator.generate("Count from 3 to 9:", params)
        [expected] = reference.generate("Count from 3 to 9:", params)
        assert output.token_ids == expected.token_ids
        assert output.outputs[0].stop_reason == expected.outputs[0].stop_reason
        assert output.finish_reason == "stop"


@pytest.mark.parametrize("kind", ["llm", "runner"])
def test_a_prompt_that_is_too_long_raises_before_any_engine_work(
    profile, open_generator, engine_at, kind
):
    if not profile.runtime:
        generator = open_generator(max_model_len=512)
    else:
        path = engine_at(max_seq_len=512, max_input_len=512, inflight=kind == "llm")
        generator = open_generator(path, tokenizer=TINY)
    calls.clear()

    with pytest.raises(
        PromptTooLongError, match=r"512 tokens.*600 tokens; at most 511"
    ):
        generator.generate([[1] * 600], GREEDY)

    assert calls.SEEN == []


def test_max_tokens_is_fitted_and_never_clamped_by_the_engine(profile, open_generator):
    """Some versions cut max_tokens to what fits, and others refuse the request."""
    generator = open_generator(max_model_len=64)

    [output] = generator.generate(
        [[1] * 50], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    )

    assert len(output.token_ids) == 14
    assert output.fitted_max_tokens == 14
    assert output.finish_reason == "length"
    assert calls.of("clamped") == []


def test_a_prompt_over_max_num_tokens_is_computed_in_chunks(install, open_generator):
    """Without chunked prefill TensorRT-LLM refuses it, even if it fits the context."""
    install("1.2")
    generator = open_generator(max_num_batched_tokens=64)

    [output] = generator.generate([[1] * 200], GREEDY)

    assert output.token_ids
    assert calls.of("LLM")[0]["enable_chunked_prefill"] is True


def test_without_chunked_prefill_max_num_tokens_bounds_the_prompt(
    install, open_generator
):
    install("1.2")
    generator = open_generator(
        max_num_batched_tokens=64, backend_options={"enable_chunked_prefill": False}
    )
    calls.clear()

    with pytest.raises(PromptTooLongError, match="200 tokens; at most 64 fit"):
        generator.generate([[1] * 200], GREEDY)

    assert calls.SEEN == []


@pytest.mark.parametrize("version", ["0.21", "1.2"])
def test_no_option_overrides_the_limits_that_requests_are_checked_against(
    install, open_generator, engine_at, version
):
    """The engine would clamp a request that the core accepted, or ignore the option."""
    install(version)
    for inflight in (True, False):
        path = engine_at(f"e{inflight}", inflight=inflight)
        for name, ours in (
            ("max_seq_len" if inflight else "max_output_len", "max_model_len"),
            ("max_batch_size", "max_num_seqs"),
        ):
            with pytest.raises(ConfigError, match=f"'{name}'.*pass {ours}= to"):
                open_generator(path, tokenizer=TINY, backend_options={name: 64})


def test_sampling_defaults_are_vllms(profile, open_generator):
    """TensorRT-LLM's own are greedy, 32 tokens and seed 0 in every run."""
    generator = open_generator()
    prompt = [[40, 41, 42]]
    params = SamplingParams(max_tokens=16, ignore_eos=True, temperature=2.0)

    [first] = generator.generate(prompt, params)
    [second] = generator.generate(prompt, params)

    assert len(first.token_ids) == 16
    assert first.token_ids != second.token_ids


def test_a_seed_repeats_and_another_one_differs(profile, open_generator):
    generator = open_generator()
    if refuses_seeds(profile, generator):
        return

    def sample(seed):
        params = SamplingParams(
            max_tokens=16, ignore_eos=True, seed=seed, temperature=2.0
        )
        return generator.generate([[40, 41, 42]], params)[0].token_ids

    assert sample(7) == sample(7)
    assert sample(7) != sample(8)


def test_a_top_k_of_minus_one_means_all(profile, open_generator):
    """TensorRT-LLM refuses a negative number."""
    params = SamplingParams(max_tokens=2, top_k=-1)

    assert open_generator().generate("Add 17 and 25:", params)


def test_ids_come_without_the_prompt_and_without_padding(
    install, open_generator, engine_at, reference
):
    """The runners return both; the padding is the EOS token."""
    install("0.21")
    generator = open_generator(engine_at(inflight=False), tokenizer=TINY)

    outputs = generator.generate(PROMPTS, GREEDY)

    expected = [o.token_ids for o in reference.generate(PROMPTS, GREEDY)]
    assert [o.token_ids for o in outputs] == expected


@pytest.mark.parametrize("version", ["0.11", "0.21", "1.2", "1.3rc20"])
def test_tokens_are_the_same_whether_or_not_lengths_count_the_eos_token(
    install, open_generator, engine_at, reference, version
):
    """No source says which; the version families of the fake differ."""
    install(version)
    for inflight in (False, True):
        generator = open_generator(
            engine_at(f"e{inflight}", inflight=inflight),
            tokenizer=TINY,
            backend_options={"door": "runner"},
        )

        outputs = generator.generate(PROMPTS, GREEDY)

        expected = reference.generate(PROMPTS, GREEDY)
        assert [o.token_ids for o in outputs] == [o.token_ids for o in expected]


def test_one_failed_request_fails_alone(profile, open_generator, reference):
    """TensorRT-LLM's generate() loses all results then."""
    generator = open_generator()

    with pytest.raises(RequestsFailedError) as caught:
        generator.generate([PROMPTS[0], [[1] * 2000][0], PROMPTS[1]], GREEDY)

    good = [o.text for o in caught.value.results if o is not None]
    assert good == [o.text for o in reference.generate(PROMPTS[:2], GREEDY)]
    assert list(caught.value.errors) == [1]


def test_a_cancelled_request_is_aborted(install, open_generator):
    install("1.2")
    generator = open_generator()
    handle = generator.submit([1] * 10, SamplingParams(max_tokens=900, ignore_eos=True))
    next(iter(handle))

    handle.cancel()

    wait_for(lambda: calls.of("abort"))


def test_leaving_a_stream_aborts_its_request(install, open_generator):
    """Leaving TensorRT-LLM's own stream does not."""
    install("1.3rc20")
    generator = open_generator()

    for _ in generator.stream(
        [1] * 10, SamplingParams(max_tokens=900, ignore_eos=True)
    ):
        break

    wait_for(lambda: calls.of("abort"))


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_unknown_options_never_reach_a_runner_that_ignores_them(
    install, open_generator, engine_at
):
    install("0.21")

    with pytest.raises(ConfigError, match="ModelRunner has no option max_bach_size"):
        open_generator(
            engine_at(inflight=False),
            tokenizer=TINY,
            backend_options={"max_bach_size": 4},
        )


def test_unknown_options_of_the_llm_class_are_refused(install, open_generator):
    install("1.2")

    with pytest.raises(ConfigError, match="LLM got invalid argument: max_bach_size"):
        open_generator(backend_options={"max_bach_size": 4})


def test_an_engine_needs_a_tokenizer(install, open_generator, engine_at):
    """trtllm-build writes none, and the LLM class runs without one."""
    install("1.2")

    with pytest.raises(TokenizerError, match="tokenizer="):
        open_generator(engine_at())


def test_eos_tokens_of_an_engine_come_from_the_directory_of_its_tokenizer(
    install, open_generator, engine_at
):
    """An engine directory has no generation_config."""
    install("1.2")

    generator = open_generator(engine_at(), tokenizer=TINY)

    assert generator.eos_token_ids == {506, 510, 511}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_logprobs": 1},
        {"min_tokens": 3},
        {"bad_words": ["apple"]},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"logprobs": 1, "logit_bias": {5: 1.0}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_no_version_has_by_default_is_refused_and_never_dropped(
    profile, open_generator, fields
):
    generator = open_generator()
    calls.clear()

    with pytest.raises(UnsupportedParameterError) as caught:
        generator.generate("Add 1 and 2:", SamplingParams(temperature=0, **fields))

    assert caught.value.parameter in fields
    assert calls.of("generate_async") == []


def test_allowed_token_ids_are_a_bias_that_no_logit_outweighs(profile, open_generator):
    """TensorRT-LLM lacks the field; its bias is exact. The runners take no bias."""
    generator = open_generator()
    params = SamplingParams(temperature=2.0, max_tokens=8, allowed_token_ids=[50, 60])

    if profile.llm is None:
        with pytest.raises(UnsupportedParameterError, match="take no bias"):
            generator.generate("Add 1 and 2:", params)
        return
    [output] = generator.generate("Add 1 and 2:", params)

    assert len(output.token_ids) == 8
    assert set(output.token_ids) <= {50, 60}


def refuses_seeds(profile, generator):
    """TorchSampler draws for a batch, so a request does not repeat beside others."""
    if profile.cpp_sampler:
        return False
    with pytest.raises(UnsupportedParameterError, match="from one seed") as caught:
        generator.generate("Add 1 and 2:", SamplingParams(seed=7))
    assert caught.value.parameter == "seed"
    return True


def test_a_seed_below_zero_is_a_seed(profile, open_generator):
    """Seeds of the C++ runtime are unsigned."""
    generator = open_generator()
    if refuses_seeds(profile, generator):
        return

    def sample(seed):
        params = SamplingParams(
            max_tokens=16, ignore_eos=True, seed=seed, temperature=2.0
        )
        return generator.generate([[40, 41, 42]], params)[0].token_ids

    assert sample(-7) == sample(-7)
    assert sample(-7) != sample(7)


def test_a_request_that_the_engine_refuses_fails_alone(
    install, open_generator, monkeypatch
):
    install("1.2")
    generator = open_generator()
    llm_class = sys.modules["tensorrt_llm"].LLM
    submit = llm_class.generate_async

    def refuse(self, inputs, sampling_params=None, **given):
        if sampling_params.max_tokens == 7:
            raise TypeError("The sampling_params must be type SamplingParams or None")
        return submit(self, inputs, sampling_params, **given)

    monkeypatch.setattr(llm_class, "generate_async", refuse)
    with pytest.raises(RequestFailedError, match="TypeError: The sampling_params"):
        generator.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=7))

    assert generator.generate(PROMPTS[0], GREEDY)


def test_each_request_has_its_own_params_object(install, open_generator):
    """TensorRT-LLM writes into its params."""
    install("1.2")
    params = SamplingParams(temperature=0, max_tokens=4)

    open_generator().generate(PROMPTS, params)

    assert SamplingParams(temperature=0, max_tokens=4) == params
    assert len(calls.of("generate_async")) == 3


def test_late_requests_fill_free_rows_of_a_running_batch(
    install, open_generator, engine_at
):
    """Otherwise a static batch of eight runs to the end of its longest row."""
    install("0.21")
    generator = open_generator(
        engine_at(max_batch_size=8, inflight=False), tokenizer=TINY
    )
    long = SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)
    short = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    first = [generator.submit([1] * 99 + [2 + i], long) for i in range(5)]
    next(iter(first[0]))

    late = [generator.submit([3] * 99 + [4 + i], short) for i in range(3)]
    for handle in late:
        handle.result(60)

    assert not any(handle.done() for handle in first)
    runs = calls.of("ModelRunner.run")
    assert [len(run["lengths"]) for run in runs][:2] == [5, 8]
    for handle in first:
        assert len(handle.result(60).token_ids) == 80
