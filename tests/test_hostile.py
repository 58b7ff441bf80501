# SPDX-License-Identifier: Apache-2.0

"""Any argument of a public call ends in a named error or a valid output, and soon.

Sockets are blocked; model directories that try to run code leave their canary
untouched.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unillm.model.find
import unillm.text.tokenizer
from unillm import Generator, SamplingParams, StructuredOutputs
from unillm.config import EngineConfig
from unillm.errors import (
    ChatTemplateError,
    InvalidParameterError,
    InvalidPromptError,
    PromptTooLongError,
    UnillmError,
)
from unillm.testing.hostile import HostileDirectories, blocked_network, trapped_model

TINY = Path(unillm.model.find.__file__).parent / "tiny"
PATIENCE_S = 60
FEW = {"max_tokens": 3, "temperature": 0}
COUNT = "Count from 3 to 9:"


@pytest.fixture(autouse=True)
def no_network():
    """No test opens a connection."""
    with blocked_network() as tried:
        yield
    assert not tried


@pytest.fixture(scope="module")
def generator():
    with Generator(
        TINY, backend="transformers", enforce_eager=True, max_model_len=128
    ) as generator:
        yield generator


def outcome_of(generator, prompt, params=None):
    """Return the output of one request or its named error; other errors are defects."""
    params = SamplingParams(**FEW) if params is None else params
    began = time.monotonic()
    try:
        [output] = generator.generate(prompt, params, timeout_s=PATIENCE_S)
    except UnillmError as error:
        assert str(error)
        assert len(str(error)) < 20_000, "too long to read"
        return error
    finally:
        assert time.monotonic() - began < PATIENCE_S
    assert output.finished
    assert output.finish_reason in {"stop", "length"}
    size = generator.limits.vocab_size
    assert all(0 <= token_id < size for token_id in output.token_ids)
    return output


def assert_still_right(generator):
    """Show that the next request gets the right answer."""
    [output] = generator.generate("Add 17 and 25:", SamplingParams(temperature=0))
    assert output.text == "42"


INTEGERS = st.integers(-(2**63), 2**63)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5),
    lambda each: (
        st.lists(each, max_size=4)
        | st.dictionaries(st.text(max_size=5), each, max_size=3)
    ),
    max_leaves=8,
)
SAMPLING_NAMES = [field.alias for field in attrs.fields(SamplingParams)]


@given(st.lists(INTEGERS, max_size=8))
def test_any_ids_are_a_prompt_or_a_named_error(generator, ids):
    outcome = outcome_of(generator, [ids])

    size = generator.limits.vocab_size
    valid = bool(ids) and all(0 <= token_id < size for token_id in ids)
    assert valid != isinstance(outcome, Exception)


@given(ANYTHING)
def test_anything_is_a_prompt_or_a_named_error(generator, value):
    for prompt in (value, [value], {"prompt": value}, {"prompt_token_ids": value}):
        try:
            outputs = generator.generate(
                prompt, SamplingParams(**FEW), on_error="return", timeout_s=PATIENCE_S
            )
        except UnillmError as error:
            assert str(error)
        else:
            assert all(isinstance(each, Exception) or each.finished for each in outputs)


@given(ANYTHING)
def test_anything_is_a_conversation_or_a_named_error(generator, value):
    for messages in (value, [value], [{"role": "user", "content": value}]):
        try:
            generator.chat(
                messages,
                SamplingParams(**FEW),
                on_error="return",
                timeout_s=PATIENCE_S,
            )
        except UnillmError as error:
            assert str(error)


@given(st.sampled_from(SAMPLING_NAMES), ANYTHING)
def test_any_value_of_any_field_is_served_or_a_named_error(generator, name, value):
    try:
        params = SamplingParams(**{**FEW, name: value})
    except InvalidParameterError as error:
        assert name in str(error) or error.parameter
        return
    if params.n > 4:
        params = attrs.evolve(params, n=4)
    if params.max_tokens is None or params.max_tokens > 4:
        params = attrs.evolve(params, max_tokens=4, min_tokens=0)
    outcome_of(generator, "Add 1 and 2:", params)


@given(st.sampled_from([f.name for f in attrs.fields(EngineConfig)]), ANYTHING)
def test_any_value_of_any_engine_option_is_taken_or_a_named_error(name, value):
    base = {"model": "m", "path": Path("m"), "backend": None}
    try:
        EngineConfig.create(**{**base, name: value})
    except (UnillmError, AttributeError, TypeError) as error:
        # `find_model` checks paths, and the registry checks names of backends.
        assert isinstance(error, UnillmError) or (
            name in {"backend", "model", "path", "sources"}
        )


# --------------------------------------------------------------------- large and deep


def test_a_huge_prompt_is_refused_with_its_length(generator):
    outcome = outcome_of(generator, [[1] * 1_000_000])

    assert isinstance(outcome, PromptTooLongError)
    assert "1000000" in str(outcome).replace(",", "").replace(" ", "")


def test_a_huge_text_is_refused(generator):
    assert isinstance(outcome_of(generator, "a" * 3_000_000), PromptTooLongError)


def test_a_hundred_thousand_stop_strings_are_honoured(generator):
    stop = [f"never {n}" for n in range(100_000)] + ["5"]
    params = SamplingParams(temperature=0, max_tokens=40, stop=stop)

    [output] = generator.generate(COUNT, params, timeout_s=PATIENCE_S)

    assert output.outputs[0].stop_reason == "5"
    assert "5" not in output.text


def test_a_long_stop_string_holds_nothing_back_that_does_not_begin_it(generator):
    params = SamplingParams(temperature=0, max_tokens=40, stop=["4" + "x" * 1_000_000])

    [output] = generator.generate(COUNT, params, timeout_s=PATIENCE_S)

    assert "3 4 5 6 7 8 9" in output.text


@pytest.mark.parametrize(
    "field",
    [
        {"n": 10**12},
        {"logit_bias": dict.fromkeys(range(200_000), 1.0)},
        {"allowed_token_ids": list(range(200_000))},
        {"stop_token_ids": [10**12]},
        {"logprobs": 10**9},
        {"max_tokens": 2**70},
        {"seed": 2**200},
        {"temperature": math.nan},
        {"top_p": math.inf},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_huge_value_is_served_or_a_named_error(generator, field):
    try:
        params = SamplingParams(**{**FEW, **field})
    except InvalidParameterError:
        return
    outcome_of(generator, "Add 1 and 2:", params)
    assert_still_right(generator)


def deep_schema(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "wanted",
    [
        {"json": deep_schema(500)},
        {"json": {"$ref": "#"}},
        {"json": {"enum": [f"value {n}" for n in range(50_000)]}},
        {"regex": "(a{1,1000}){1,1000}"},
        {"regex": "(a|a|a|a)*" * 200},
        {"regex": "(" * 5000 + "a" + ")" * 5000},
        {"grammar": "start: start start | start start start"},
        {"choice": ["x" * 100_000]},
    ],
    ids=["deep", "loop", "enum", "counts", "forks", "nested", "grammar", "choice"],
)
def test_a_structure_that_explodes_is_bounded(generator, wanted):
    try:
        params = SamplingParams(**FEW, structured_outputs=StructuredOutputs(**wanted))
    except UnillmError:
        return
    outcome_of(generator, "Add 1 and 2:", params)
    assert_still_right(generator)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ().__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{% for %}",
        "{{ range(10**9) }}",
    ],
    ids=["loops", "recursion", "escape", "change", "divide", "syntax", "range"],
)
def test_a_hostile_template_is_a_named_error(generator, template, monkeypatch):
    monkeypatch.setattr(unillm.text.tokenizer, "TEMPLATE_TIMEOUT_S", 1.0)
    messages = [{"role": "user", "content": "Add 1 and 2:"}]

    with pytest.raises(ChatTemplateError):
        generator.chat(messages, SamplingParams(**FEW), chat_template=template)

    assert messages == [{"role": "user", "content": "Add 1 and 2:"}]
    assert_still_right(generator)


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\U0010ffff" * 3, "<|eot_id|>"])
def test_odd_texts_are_prompts_or_named_errors(generator, text):
    outcome = outcome_of(generator, text)

    assert not isinstance(outcome, Exception) or isinstance(outcome, InvalidPromptError)
    assert_still_right(generator)


# ----------------------------------------------------- directories that try to run code


class TestTransformers(HostileDirectories):
    backend = "transformers"
    options = {"enforce_eager": True}


def test_python_files_beside_a_model_are_not_imported(tmp_path):
    """The program even runs in that directory."""
    model, canary = trapped_model("generation config", tmp_path)
    program = (
        "from unillm import Generator\n"
        "with Generator('.', backend='transformers', enforce_eager=True) as g:\n"
        "    print(g.generate('Add 17 and 25:')[0].text)\n"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=model,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "42" in done.stdout, done.stderr
    assert not canary.exists()
