# SPDX-License-Identifier: Apache-2.0

"""`RequestMaker` without an engine: checks, numbers, seeds, one value for each prompt."""

from __future__ import annotations

from functools import partial

import attrs
import numpy as np
import pytest

from unillm import LoRARequest, SamplingParams
from unillm.engines.aspects import aspects_of
from unillm.engines.base import (
    ALWAYS,
    FEATURES,
    SAMPLING_FIELDS,
    Capabilities,
    Capability,
    Support,
)
from unillm.errors import (
    InvalidParameterError,
    PromptTypeError,
    UnsupportedParameterError,
)

UNSUPPORTED = Capability(support=Support.UNSUPPORTED, reason="it only echoes")


def requests_of(handle):
    return [completion.request for completion in handle.completions]


def test_prompt_and_params_become_one_engine_request(maker_for):
    params = SamplingParams(max_tokens=5, stop_token_ids=[7], seed=3)

    handle = maker_for().make("ab", params, priority=2)

    [request] = requests_of(handle)
    assert (handle.request_id, handle.prompt) == ("0", "ab")
    assert (request.request_id, request.prompt_token_ids) == ("0-0", (97, 98))
    assert (request.max_new_tokens, request.seed, request.priority) == (5, 3, 2)
    assert request.stop_token_ids == {0, 7}
    assert not handle.done()


def test_requests_are_numbered_in_order(maker_for):
    maker = maker_for()

    handles = [maker.make("a", None) for _ in range(3)]

    assert [handle.request_id for handle in handles] == ["0", "1", "2"]
    assert [requests_of(handle)[0].arrival for handle in handles] == [0, 1, 2]


def test_a_refused_request_takes_no_number_and_no_seed(maker_for):
    maker, other = maker_for(seed=5), maker_for(seed=5)
    with pytest.raises(InvalidParameterError):
        maker.make("a", SamplingParams(logprobs=21))

    first, same = maker.make("a", None), other.make("a", None)

    assert requests_of(first) == requests_of(same)


def test_completions_of_one_prompt_differ_in_seed_and_in_prompt_logprobs(maker_for):
    params = SamplingParams(n=3, seed=7, prompt_logprobs=1)

    first, *others = requests_of(maker_for().make("ab", params))

    assert [first.seed, *(other.seed for other in others)] == [7, 8, 9]
    assert [other.request_id for other in others] == ["0-1", "0-2"]
    assert first.params.prompt_logprobs == 1
    assert [other.params.prompt_logprobs for other in others] == [None, None]


def test_without_params_the_models_defaults_are_used(maker_for):
    [request] = requests_of(maker_for().make("a", None))

    assert request.params.temperature == 0.5


def test_min_tokens_are_fitted_with_max_tokens(maker_for):
    """vLLM checks neither against the context."""
    params = SamplingParams(min_tokens=900, max_tokens=2000)

    [completion] = maker_for(max_model_len=10).make((1, 2), params).completions

    assert completion.request.max_new_tokens == 8
    assert completion.request.params.min_tokens == 8
    with pytest.raises(InvalidParameterError, match=r"max_tokens=2000 .* leaves 8"):
        maker_for(max_model_len=10, strict_length=True).make((1, 2), params)


def test_a_cache_salt_needs_a_backend_that_honours_it(maker_for):
    prompt = {"prompt": "a", "cache_salt": "mine"}
    able = maker_for(capabilities=Capabilities(fields={"cache_salt": Capability()}))

    assert requests_of(able.make(prompt, None))[0].cache_salt == "mine"
    with pytest.raises(UnsupportedParameterError, match="cannot honour cache_salt"):
        maker_for().make(prompt, None)


def test_later_assignments_do_not_reach_a_request(maker_for):
    params = SamplingParams(max_tokens=5)

    handle = maker_for().make("a", params)
    params.max_tokens = 9

    assert requests_of(handle)[0].params.max_tokens == 5


@pytest.mark.parametrize(
    ("default", "given", "deadline"),
    [(None, None, None), (None, 5.0, 105.0), (60.0, None, 160.0), (60.0, 5.0, 105.0)],
)
def test_a_deadline_is_the_requests_own_or_the_makers(
    maker_for, default, given, deadline
):
    maker = maker_for(clock=lambda: 100.0)
    maker.timeout_s = default

    assert maker.make("a", None, timeout_s=given).deadline == deadline


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": {"temperature": 0}}, "must be SamplingParams, got dict"),
        ({"priority": "high"}, "must be an integer, got 'high'"),
        ({"lora_request": "/adapters/one"}, "must be a LoRARequest, got str"),
        ({"timeout_s": 0}, "number of seconds > 0 or None, got 0"),
        ({"params": SamplingParams(logprobs=21)}, "max_logprobs=20"),
        ({"params": SamplingParams(prompt_logprobs=-1)}, "max_logprobs=20"),
    ],
)
def test_an_invalid_argument_is_refused(maker_for, given, message):
    with pytest.raises(InvalidParameterError, match=message):
        maker_for().make("a", **{"params": None, **given})


def test_of_several_errors_that_of_the_prompt_is_raised(maker_for):
    maker, params = maker_for(), {"temperature": 0}
    [make] = maker.makers([None], [params], [1], 0, None)

    for refused in (make, partial(maker.make, None, params, lora_request=1)):
        with pytest.raises(PromptTypeError):
            refused()


def test_an_unsupported_field_is_refused_with_the_backends_that_honour_it(maker_for):
    class Other:
        name = "other"
        capabilities = Capabilities.native("top_p")

    maker = maker_for(
        backend="echo",
        backends=lambda: [Other],
        capabilities=Capabilities(fields={"top_p": UNSUPPORTED}),
    )

    with pytest.raises(UnsupportedParameterError, match="it only echoes") as caught:
        maker.make("a", SamplingParams(top_p=0.5))

    assert "'echo' cannot honour top_p=0.5" in str(caught.value)
    assert "These backends can: other." in str(caught.value)
    assert maker.make("a", SamplingParams(top_p=1.0))  # the default asks for nothing


def test_an_engine_that_cannot_draw_refuses_every_temperature_but_zero(maker_for):
    maker = maker_for(capabilities=Capabilities(fields={"temperature": UNSUPPORTED}))

    for params in (None, SamplingParams(), SamplingParams(temperature=0.7)):
        with pytest.raises(UnsupportedParameterError, match="it only echoes") as caught:
            maker.make("a", params)
        assert caught.value.parameter == "temperature"
    assert maker.make("a", SamplingParams(temperature=0))


@pytest.mark.parametrize("field", ["top_p", "top_k", "min_p", "seed"])
def test_a_greedy_request_may_name_what_only_draws_use(maker_for, field):
    maker = maker_for(capabilities=Capabilities(fields={field: UNSUPPORTED}))
    value = {"top_k": 5, "seed": 5}.get(field, 0.5)

    assert maker.make("a", SamplingParams(temperature=0, **{field: value}))
    with pytest.raises(UnsupportedParameterError):
        maker.make("a", SamplingParams(**{field: value}))


@pytest.mark.parametrize(
    ("aspect", "refused", "served"),
    [
        ("bad_words.sequences", {"bad_words": ["ab"]}, {"bad_words": ["b"]}),
        (
            "logprobs.changed",
            {"logprobs": 1, "logit_bias": {5: 1.0}},
            {"logprobs": 1, "temperature": 0.5},
        ),
        (
            "min_tokens.stop_ids",
            {"min_tokens": 2, "stop_token_ids": [5]},
            {"min_tokens": 2},
        ),
        (
            "min_tokens.ignored_eos",
            {"min_tokens": 2, "ignore_eos": True, "stop_token_ids": [5]},
            {"min_tokens": 2, "ignore_eos": True},
        ),
    ],
    ids=["bad_words", "logprobs", "min_tokens", "ignored_eos"],
)
def test_an_aspect_is_refused_alone(maker_for, aspect, refused, served):
    maker = maker_for(capabilities=Capabilities(fields={aspect: UNSUPPORTED}))

    with pytest.raises(UnsupportedParameterError, match="it only echoes") as caught:
        maker.make("a", SamplingParams(**refused))
    assert caught.value.parameter == aspect.partition(".")[0]
    assert maker.make("a", SamplingParams(**served))


def test_an_aspect_follows_its_field(maker_for):
    capabilities = Capabilities(fields={"bad_words": UNSUPPORTED})

    assert capabilities.of("bad_words.sequences") is UNSUPPORTED
    able = Capabilities.native("bad_words")
    assert able.of("bad_words.sequences").support is Support.NATIVE


def test_a_field_that_no_backend_names_is_unsupported():
    supported = {
        name
        for name in SAMPLING_FIELDS | FEATURES
        if Capabilities().of(name).support is not Support.UNSUPPORTED
    }

    assert supported == {"max_tokens", "n"}
    assert Capabilities().of("top_p").reason == "the backend does not declare it"


NOT_DEFAULT = {
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
    "repetition_penalty": 1.1,
    "temperature": 1.0,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.5,
    "seed": 7,
    "stop_token_ids": [97],
    "ignore_eos": True,
    "min_tokens": 2,
    "logprobs": 1,
    "prompt_logprobs": 1,
    "logit_bias": {97: 1.0},
    "allowed_token_ids": [97],
    "bad_words": ["b"],
    "structured_outputs": {"choice": ["a"]},
}


def test_extra_arguments_reach_an_engine_that_declares_them(maker_for):
    given = SamplingParams(extra_args={"target": 5})
    able = Capabilities.native("extra_args", "temperature")

    with pytest.raises(UnsupportedParameterError, match=r"extra_args=\{'target': 5\}"):
        maker_for().make("a", given)
    [request] = requests_of(
        attrs.evolve(maker_for(), capabilities=able).make("a", given)
    )

    assert request.params.extra_args == {"target": 5}


def test_labels_are_refused_by_an_engine_that_returns_only_the_best(maker_for):
    maker = maker_for()
    limited = attrs.evolve(maker, limits=attrs.evolve(maker.limits, max_logprobs=5))
    labels = SamplingParams(logprob_token_ids=[5, 7])

    [request] = requests_of(maker.make("a", labels))
    assert request.logprob_token_ids == (5, 7)
    assert (request.params.logprobs, request.params.logprob_token_ids) == (-1, None)
    with pytest.raises(UnsupportedParameterError, match="most probable tokens alone"):
        limited.make("a", labels)


@pytest.mark.parametrize("missing", ["logprobs", "logprobs.top"])
def test_labels_are_refused_by_their_own_name(maker_for, missing):
    able = Capabilities.native("temperature", "logprobs")
    refused = able.refined(Capabilities(fields={missing: UNSUPPORTED}))
    maker = attrs.evolve(maker_for(), capabilities=refused)

    with pytest.raises(
        UnsupportedParameterError, match=r"logprob_token_ids=\[5, 7\].* it only echoes"
    ) as caught:
        maker.make("a", SamplingParams(logprob_token_ids=[5, 7]))
    assert caught.value.parameter == "logprob_token_ids"


def test_extra_arguments_need_not_compare(maker_for):
    maker = attrs.evolve(
        maker_for(), capabilities=Capabilities.native("extra_args", "temperature")
    )
    arrays = [np.array([1, 2]), np.array([1, 3])]

    handles = [maker.make("a", SamplingParams(extra_args={"x": a})) for a in arrays]

    for handle, array in zip(handles, arrays, strict=True):
        [request] = requests_of(handle)
        assert request.params.extra_args["x"] is array


@pytest.mark.parametrize("name", sorted(SAMPLING_FIELDS - ALWAYS))
def test_a_request_with_a_field_that_the_backend_does_not_name_is_refused(
    maker_for, name
):
    draws = {"temperature"} if name in {"top_p", "top_k", "min_p", "seed"} else set()
    maker = maker_for()
    maker = attrs.evolve(maker, capabilities=Capabilities.native(*draws))
    fields = dict.fromkeys(draws, 1.0) | {name: NOT_DEFAULT[name]}

    with pytest.raises(
        UnsupportedParameterError, match="the backend does not declare it"
    ) as caught:
        maker.make("a", SamplingParams(**{"temperature": 0.0, **fields}))
    assert caught.value.parameter == name
    assert maker.make("a", SamplingParams(temperature=0, max_tokens=5))


@pytest.mark.parametrize(
    ("top_k", "vocab_size", "found"),
    [(1024, 2000, []), (1025, 2000, ["top_k.large"]), (2000, 2000, [])],
    ids=["kept", "more", "all"],
)
def test_a_large_top_k_is_one_that_leaves_tokens_out(
    maker_for, top_k, vocab_size, found
):
    handle = maker_for().make("a", SamplingParams(top_k=top_k))
    [request] = requests_of(handle)

    assert list(aspects_of(request, vocab_size=vocab_size)) == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"logprobs": 0}, []),
        ({"logprobs": 2}, ["logprobs.top"]),
        ({"logprobs": -1}, ["logprobs.top"]),
        ({"structured_outputs": {"json": {}}}, ["structured_outputs.json"]),
        ({"structured_outputs": {"choice": ["a"]}}, ["structured_outputs.choice"]),
    ],
)
def test_kinds_of_logprobs_and_of_structures_are_aspects(maker_for, fields, found):
    [request] = requests_of(maker_for().make("a", SamplingParams()))
    asked = attrs.evolve(request, params=SamplingParams(**fields))

    assert list(aspects_of(asked, vocab_size=2000)) == found


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_an_engine_may_return_fewer_log_probabilities(maker_for, name):
    maker = maker_for()
    maker = attrs.evolve(maker, limits=attrs.evolve(maker.limits, max_logprobs=2))

    assert maker.make("a", SamplingParams(**{name: 2}))
    for count in (3, -1):
        with pytest.raises(
            UnsupportedParameterError, match="its engine returns at most 2"
        ) as caught:
            maker.make("a", SamplingParams(**{name: count}))
        assert (caught.value.parameter, caught.value.value) == (name, count)


def test_a_sequence_that_ends_in_a_banned_id_is_not_an_aspect(maker_for):
    handle = maker_for().make("a", SamplingParams(bad_words=["b", "ab"]))
    [request] = requests_of(handle)

    assert (97, 98) in request.bad_words_token_ids
    assert list(aspects_of(request, vocab_size=2000)) == []


def test_a_sequence_without_its_word_is_an_aspect_of_its_own(maker_for):
    handle = maker_for().make("a", SamplingParams(bad_words=["ab"]))
    [request] = requests_of(handle)
    bare = attrs.evolve(request, params=SamplingParams())

    with_word, without = (
        list(aspects_of(each, vocab_size=2000)) for each in (request, bare)
    )

    assert with_word == ["bad_words.sequences"]
    assert without == ["bad_words.sequences", "bad_words.sequences.ids"]


def test_an_aspect_of_an_aspect_is_honoured_as_that_one():
    refused = Capability(support=Support.UNSUPPORTED, reason="one id")
    able = Capabilities(
        fields={"bad_words": Capability(), "bad_words.sequences": refused}
    )

    assert able.of("bad_words.sequences.ids") is refused


def test_an_adapter_needs_enable_lora(maker_for, tmp_path):
    maker = maker_for(capabilities=Capabilities(fields={"lora": Capability()}))

    with pytest.raises(UnsupportedParameterError, match="enable_lora=True"):
        maker.make("a", None, LoRARequest("one", 1, tmp_path))


# -------------------------------------------------------------- one value for each prompt


def make_all(maker, prompts, params=None, lora_request=None, priority=0):
    """Return a handle or an error for each prompt of a list call."""
    made = []
    for make in maker.makers(prompts, params, lora_request, priority, None):
        try:
            made.append(make())
        except InvalidParameterError as error:
            made.append(error)
    return made


def test_one_value_is_for_all_prompts_and_a_list_has_one_for_each(maker_for):
    params = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)]

    shared = make_all(maker_for(), ["a", "b"], params[0], priority=4)
    own = make_all(maker_for(), ["a", "b"], params, priority=[4, 5])

    def numbers(handles):
        requests = [requests_of(handle)[0] for handle in handles]
        return [(request.max_new_tokens, request.priority) for request in requests]

    assert numbers(shared) == [(1, 4), (1, 4)]
    assert numbers(own) == [(1, 4), (2, 5)]


@pytest.mark.parametrize(
    "given",
    [
        {"params": [SamplingParams(), None]},
        {"priority": [0, "high"]},
        {"lora_request": [None, "/adapters/one"]},
    ],
    ids=lambda given: next(iter(given)),
)
def test_an_invalid_entry_of_a_list_fails_with_its_prompt_alone(maker_for, given):
    good, bad = make_all(maker_for(), ["a", "b"], **given)

    assert good.prompt == "a"
    assert bad.parameter == next(iter(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": 0.5}, "must be SamplingParams, got float"),
        ({"params": [SamplingParams()] * 3}, "2 prompts and 3 params values"),
        ({"priority": "high"}, "must be an integer"),
        ({"priority": [0]}, "2 prompts and 1 priority values"),
        ({"lora_request": "/adapters/one"}, "must be a LoRARequest"),
        ({"lora_request": [None] * 3}, "2 prompts and 3 lora_request values"),
    ],
)
def test_an_invalid_value_for_all_prompts_fails_the_call(maker_for, given, message):
    with pytest.raises(InvalidParameterError, match=message):
        make_all(maker_for(), ["a", "b"], **given)


def test_a_prompt_of_no_known_form_is_refused(maker_for):
    with pytest.raises(PromptTypeError, match="got NoneType"):
        maker_for().make(None, None)
