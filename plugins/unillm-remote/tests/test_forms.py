# SPDX-License-Identifier: Apache-2.0

"""Servers that cannot run here: fakes are made of their published forms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from forms import (
    FakeLlamaCpp,
    FakeSglang,
    FakeText,
    FakeTriton,
    FakeTrtllm,
    FakeVllm,
    serving,
)
from unillm_remote._endpoints.completions import vllm_seed

from unillm import Generator, SamplingParams
from unillm.errors import BackendUnavailableError, UnsupportedParameterError
from unillm.testing.asking import ANSWERS, COUNT
from unillm.testing.contract.aborts import AbortClauses
from unillm.testing.contract.ends import EndClauses
from unillm.testing.contract.rows import RowClauses
from unillm.testing.contract.sampling import SamplingClauses

GREEDY = SamplingParams(temperature=0, max_tokens=64)
FAKES = {
    "SGLang": FakeSglang,
    "llama.cpp": FakeLlamaCpp,
    "trtllm-serve": FakeTrtllm,
}


def open_generator(url, **options):
    return Generator(
        "unillm/tiny",
        backend="remote",
        backend_options={"url": url},
        max_model_len=256,
        **options,
    )


@pytest.fixture(scope="module", params=FAKES, ids=FAKES)
def found(request):
    """A fake and a generator for it."""
    fake = FAKES[request.param]()
    with serving(fake) as url, open_generator(url) as generator:
        assert generator.stats()["engine"]["server"] == request.param
        yield fake, generator


def test_the_answers_are_the_models(found):
    _, generator = found

    outputs = generator.generate(list(ANSWERS), GREEDY)

    assert [output.text for output in outputs] == list(ANSWERS.values())
    assert {output.finish_reason for output in outputs} == {"stop"}
    assert all(o.token_ids[-1] in generator.eos_token_ids for o in outputs)


def test_a_stop_id_of_the_user_ends_a_request(found):
    _, generator = found
    [whole] = generator.generate(COUNT, GREEDY)
    stop = whole.token_ids[4]
    params = SamplingParams(temperature=0, max_tokens=64, stop_token_ids=[stop])

    [output] = generator.generate(COUNT, params)

    assert output.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert output.outputs[0].stop_reason == stop


def test_a_limit_ends_a_request(found):
    _, generator = found
    params = SamplingParams(temperature=0, max_tokens=3)

    [output] = generator.generate(COUNT, params)

    assert (len(output.token_ids), output.finish_reason) == (3, "length")


def test_the_last_token_may_stop(found):
    _, generator = found
    [whole] = generator.generate(COUNT, GREEDY)
    params = SamplingParams(temperature=0, max_tokens=len(whole.token_ids))

    [output] = generator.generate(COUNT, params)

    assert (output.token_ids, output.finish_reason) == (whole.token_ids, "stop")


def test_a_bias_reaches_the_model(found):
    _, generator = found
    params = SamplingParams(temperature=0, max_tokens=3, logit_bias={65: 100.0})

    [output] = generator.generate(COUNT, params)

    assert output.token_ids == [65] * 3


def test_every_body_has_ids_and_no_text(found):
    fake, generator = found
    generator.generate(COUNT, GREEDY)

    body = fake.bodies[-1]

    prompt = body.get("prompt", body.get("input_ids"))
    assert prompt == generator.tokenize(COUNT)


REFUSED = {
    "logprobs": {"logprobs": 1},
    "prompt_logprobs": {"prompt_logprobs": 1},
    "structured_outputs": {"structured_outputs": {"regex": "[0-9]"}},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "min_p": {"min_p": 0.1, "temperature": 1},
    "seed": {"seed": 3, "temperature": 1},
    "min_tokens": {"min_tokens": 2},
    "ignore_eos": {"ignore_eos": True},
    "allowed_token_ids": {"allowed_token_ids": [5, 6]},
    "bad_words": {"bad_words": ["~"]},
}
_EVERY = {"logprobs", "prompt_logprobs", "structured_outputs"}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("SGLang", _EVERY | {"repetition_penalty", "seed", "allowed_token_ids"}),
        ("SGLang", {"bad_words"}),
        ("llama.cpp", _EVERY | {"presence_penalty", "frequency_penalty"}),
        ("llama.cpp", {"min_tokens", "ignore_eos"}),
        ("trtllm-serve", REFUSED.keys() - {"ignore_eos"}),
    ],
)
def test_a_field_that_a_server_lacks_is_refused_by_name(kind, fields):
    fake = FAKES[kind]()
    with serving(fake) as url, open_generator(url) as generator:
        asked = len(fake.bodies)
        for name in fields:
            params = SamplingParams(**{"temperature": 0, **REFUSED[name]})
            with pytest.raises(UnsupportedParameterError) as caught:
                generator.generate(COUNT, params)
            assert caught.value.parameter == name
        assert len(fake.bodies) == asked


def test_words_and_ids_are_banned_on_llamacpp():
    with serving(FakeLlamaCpp()) as url, open_generator(url) as generator:
        [whole] = generator.generate(COUNT, GREEDY)
        five = whole.token_ids[0]
        allowed = SamplingParams(temperature=0, max_tokens=3, allowed_token_ids=[five])
        banned = SamplingParams(temperature=0, max_tokens=6, bad_words=["6"])

        first, second = generator.generate([COUNT, COUNT], [allowed, banned])

    assert first.token_ids == [five] * 3
    assert second.text.startswith("3 4 5 ")
    assert "6" not in second.text


def test_an_endpoint_that_vllm_forbids_is_not_used():
    with serving(FakeVllm()) as url, open_generator(url) as generator:
        assert generator.stats()["engine"]["path"] == "/v1/completions"
        [output] = generator.generate(COUNT, GREEDY)

    assert output.text == ANSWERS[COUNT]


@pytest.mark.parametrize(
    ("fake", "says"),
    [(FakeText(), "text without token ids"), (FakeTriton(), "it is Triton")],
    ids=["OpenAI", "Triton"],
)
def test_a_server_of_text_alone_is_refused(fake, says):
    with serving(fake) as url, pytest.raises(BackendUnavailableError) as caught:
        open_generator(url)

    assert says in str(caught.value)
    assert "may be others than the model's" in str(caught.value)


@pytest.fixture(scope="class", autouse=True)
def address(request):
    """Serve the fake of a class of clauses."""
    make_fake = getattr(request.cls, "make_fake", None)
    if make_fake is None:
        yield
        return
    with serving(make_fake()) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNILLM_REMOTE_URL", url)
        yield


class Clauses(EndClauses, RowClauses, AbortClauses, SamplingClauses):
    """The clauses that show how a request is translated."""

    backend = "remote"


class TestFormOfSglang(Clauses):
    make_fake = FakeSglang


class TestFormOfSglangWithItsFlag(Clauses):
    @staticmethod
    def make_fake():
        return FakeSglang(incremental=True)


class TestFormOfTrtllm(Clauses):
    make_fake = FakeTrtllm


def test_a_seed_beyond_32_bits_reaches_vllm_in_32_that_depend_on_all():
    seeds = [5, *(5 ^ (1 << bit) for bit in range(63)), 5 - 2**63, -1]

    sent = [vllm_seed(SimpleNamespace(seed=seed)) for seed in seeds]

    assert sent[0] == 5
    assert len(set(sent)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in sent)
