# SPDX-License-Identifier: Apache-2.0

"""Speculative decoding: its options, and what it honours in each version."""

from __future__ import annotations

import pytest
from conftest import TINY
from trtllm_double import calls

from unillm import SamplingParams
from unillm.errors import ConfigError, UnsupportedParameterError

MTP = {"method": "mtp", "num_speculative_tokens": 1}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3}
EAGLE3 = {"method": "eagle3", "num_speculative_tokens": 3, "model": "head"}
PROMPT = [[40, 41, 42]]


def drawn(generator, **fields):
    """Return the answers of sixteen calls that draw."""
    params = SamplingParams(max_tokens=8, ignore_eos=True, temperature=2.0, **fields)
    return {tuple(generator.generate(PROMPT, params)[0].token_ids) for _ in range(16)}


@pytest.mark.parametrize("version", ["1.0", "1.1rc0", "1.1"])
def test_a_temperature_is_refused_where_speculation_is_greedy(
    install, open_generator, version
):
    install(version)
    generator = open_generator(speculative_config=MTP)
    calls.clear()

    with pytest.raises(UnsupportedParameterError, match="no allow_advanced_sampling"):
        generator.generate(PROMPT, SamplingParams(temperature=0.5))

    assert calls.of("generate_async") == []
    assert generator.generate(PROMPT, SamplingParams(temperature=0))


@pytest.mark.parametrize("version", ["1.2", "1.3rc20", "1.3rc24", "1.4", "main"])
@pytest.mark.parametrize("config", [MTP, NGRAM], ids=["mtp", "ngram"])
def test_a_temperature_draws_where_speculation_can(
    install, open_generator, version, config
):
    install(version)

    generator = open_generator(speculative_config=config)

    assert len(drawn(generator)) > 8


@pytest.mark.parametrize(
    ("version", "expected"), [("1.2", True), ("1.3rc20", True), ("main", False)]
)
def test_the_option_is_set_unless_it_is_deprecated(
    install, open_generator, version, expected
):
    install(version)

    open_generator(speculative_config=MTP)

    made = calls.of("LLM")[-1]["speculative_config"]
    assert made.allow_advanced_sampling is expected


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 3},
        {"min_p": 0.1},
        {"repetition_penalty": 1.2},
        {"presence_penalty": 0.5},
        {"logit_bias": {5: 1.0}},
        {"allowed_token_ids": [5]},
        {"bad_words": ["a"]},
        {"logprobs": 1},
        {"n": 2},
    ],
    ids=lambda fields: next(iter(fields)),
)
@pytest.mark.parametrize("version", ["1.2", "main"])
def test_what_no_source_promises_beside_drafts_is_refused(
    install, open_generator, version, fields
):
    install(version)
    generator = open_generator(speculative_config=NGRAM)

    with pytest.raises(UnsupportedParameterError) as caught:
        generator.generate(PROMPT, SamplingParams(**fields))

    assert caught.value.parameter in fields


@pytest.mark.parametrize("version", ["1.0", "1.2", "main"])
def test_drafts_of_eagle_1_and_2_are_refused_on_pytorch(
    install, open_generator, version
):
    install(version)

    with pytest.raises(ConfigError, match="those of EAGLE 1 and 2 do not fit"):
        open_generator(speculative_config={**EAGLE3, "method": "eagle"})


@pytest.mark.parametrize("method", ["draft_model", "eagle3"])
def test_a_method_without_its_draft_model_is_refused(install, open_generator, method):
    install("1.2")

    with pytest.raises(ConfigError, match=f"'{method}' needs model, .* got None"):
        open_generator(
            speculative_config={"method": method, "num_speculative_tokens": 3}
        )


@pytest.mark.parametrize("version", ["1.0", "1.2", "main"])
def test_the_draft_model_has_the_name_of_its_version(install, open_generator, version):
    profile = install(version)

    open_generator(speculative_config=EAGLE3)

    made = calls.of("LLM")[-1]["speculative_config"]
    assert getattr(made, profile.draft_field) == "head"
    assert made.max_draft_len == 3


def test_a_temperature_with_speculation_on_engines_is_refused(
    install, open_generator, engine_at
):
    install("1.2")
    generator = open_generator(
        engine_at(),
        tokenizer=TINY,
        speculative_config={**EAGLE3, "method": "eagle"},
    )

    with pytest.raises(UnsupportedParameterError, match="speculation on engines"):
        generator.generate(PROMPT, SamplingParams(temperature=0.5))
