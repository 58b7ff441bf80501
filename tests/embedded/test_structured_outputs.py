# SPDX-License-Identifier: Apache-2.0

"""Structured outputs: whatever tokens a model prefers, the text conforms."""

from __future__ import annotations

import json
import re
import threading
import time

import llguidance
import pytest
from embedded.byte_tokenizer import OwnTokenizer, save_model
from embedded.structures import DIGIT, STRUCTURES, Structure, obj, text

from unillm import Generator, SamplingParams, StructuredOutputs
from unillm.errors import (
    InvalidParameterError,
    RequestFailedError,
    UnsupportedParameterError,
)
from unillm.text import grammar as grammars
from unillm.text.grammar import GrammarCompiler
from unillm.text.loading import load_tokenizer

SHARE = [*STRUCTURES[:-17:4], *STRUCTURES[-17:]]
"""A quarter of the schemas and regexes, and all choices and grammars."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generator(path):
    with Generator(path, max_num_seqs=8) as generator:
        yield generator


def params(structured, **fields) -> SamplingParams:
    return SamplingParams(
        structured_outputs=structured, **{"max_tokens": 400, "seed": 3, **fields}
    )


@pytest.fixture(scope="module")
def tiny():
    with Generator("unillm/tiny", backend="transformers", max_num_seqs=16) as tiny:
        yield tiny


@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["sampled", "greedy"])
def test_outputs_of_a_random_model_conform(generator, temperature):
    check(generator, SHARE, temperature=temperature)


def test_outputs_of_the_bundled_model_conform(tiny):
    check(tiny, SHARE, temperature=1.0)


@pytest.mark.large
@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["sampled", "greedy"])
@pytest.mark.parametrize("model", ["unillm/tiny", "random 0", "random 1"])
def test_outputs_of_all_structures_conform(tmp_path, model, temperature):
    assert len(STRUCTURES) >= 200
    if model.startswith("random"):
        model = save_model(tmp_path, seed=int(model.split()[1]))

    with Generator(model, backend="transformers", max_num_seqs=16) as generator:
        check(generator, STRUCTURES, temperature=temperature)


def check(generator, structures, *, temperature):
    """Generate for all structures in one call: each row has its own grammar."""
    asked = [
        params(each.fields, temperature=temperature, seed=number)
        for number, each in enumerate(structures)
    ]

    outputs = generator.generate([f"{each.name}:" for each in structures], asked)

    ended = 0
    for each, output in zip(structures, outputs, strict=True):
        if output.finish_reason == "stop":
            ended += 1
            assert each.accepts(output.text), (each.name, each.fields, output.text)
            assert output.token_ids[-1] in generator.eos_token_ids
        else:
            assert output.finish_reason == "length"
            assert_is_prefix(generator, each.fields, output)
    # Digits of a number and unbounded patterns can go on for ever.
    assert ended >= len(structures) * 0.95, (ended, len(structures))


def start(generator, **fields):
    """Return the state of a grammar over the generator's tokenizer."""
    compiler = GrammarCompiler(
        load_tokenizer(generator.get_tokenizer()),
        vocab_size=generator.limits.vocab_size,
        eos_ids=generator.eos_token_ids,
    )
    return compiler.compile(StructuredOutputs(**fields)).start()


def assert_is_prefix(generator, fields, output):
    """Assert that further tokens could still make the text conform."""
    state = start(generator, **fields)
    for token_id in output.token_ids:
        state.accept(token_id)
    assert any(state.allowed())
    assert not state.error


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"json": {"type": "integer", "maximum": 9}}, "10"),
        ({"json": {"type": "string", "format": "date"}}, '"2024-13-01"'),
        ({"json": {"$defs": {"a": {"const": 1}}, "$ref": "#/$defs/a"}}, "2"),
        ({"regex": "a{3}"}, "aaaa"),
    ],
)
def test_structures_reject_wrong_texts(fields, wrong):
    assert not Structure("", fields).accepts(wrong)


def test_all_fields_work_together_each_row_its_own(generator):
    pattern = "[a-z ]{1,40}"
    asked = [
        params({"regex": pattern}, logprobs=2, top_p=0.9, repetition_penalty=1.2),
        params({"regex": pattern}, bad_words=["x"], min_tokens=5),
        params({"choice": ["aaa", "bbb"]}, logit_bias={66 + 3: 100}, prompt_logprobs=1),
        SamplingParams(max_tokens=20, seed=3),
        params({"json_object": True}, temperature=0, presence_penalty=1.0),
        params({"regex": pattern}, detokenize=False),
        params({"regex": "[0-9]{30}"}, n=3),
    ]
    prompts = [f"row {number}" for number in range(len(asked))]

    together = generator.generate(prompts, asked)

    for prompt, own, output in zip(prompts, asked, together, strict=True):
        [alone] = generator.generate(prompt, own)
        assert [c.token_ids for c in alone.outputs] == [
            c.token_ids for c in output.outputs
        ]
    assert "x" not in together[1].text
    assert len(together[1].token_ids) >= 5
    assert together[5].text == ""
    texts = [completion.text for completion in together[6].outputs]
    assert len(set(texts)) == 3
    assert all(re.fullmatch("[0-9]{30}", text) for text in texts)


def test_a_pydantic_model_gives_the_schema(generator):
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        right: bool
        grade: int = pydantic.Field(ge=0, le=9)

    structured = StructuredOutputs(json=Answer, disable_any_whitespace=True)

    [output] = generator.generate("grade it", params(structured))

    assert Answer.model_validate_json(output.text)
    assert output.finish_reason == "stop"


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"regex": "a", "json_object": True},
        {"json": "{"},
        {"json": "3"},
        {"json": 3},
        {"json": {"a": {1}}},
        {"regex": ""},
        {"choice": []},
        {"choice": "ab"},
        {"choice": ["a", ""]},
        {"grammar": 3},
        {"reges": "a"},
    ],
    ids=str,
)
def test_arguments_without_a_structure_are_refused_at_once(fields):
    with pytest.raises((InvalidParameterError, TypeError)):
        SamplingParams(structured_outputs=fields)


def test_ignore_eos_contradicts_a_structure():
    with pytest.raises(InvalidParameterError, match="ignore_eos"):
        SamplingParams(structured_outputs={"regex": "a"}, ignore_eos=True)


def test_later_changes_of_the_callers_schema_have_no_effect():
    schema = obj(a=DIGIT)
    structured = StructuredOutputs(json=schema)

    schema["properties"]["b"] = DIGIT

    assert json.loads(structured.json) == obj(a=DIGIT)
    assert hash(structured) == hash(StructuredOutputs(json=structured.json))


def nested(depth):
    schema = DIGIT
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


IMPOSSIBLE = {
    "unclosed": {"regex": "("},
    "look-ahead": {"regex": "a(?=b)"},
    "empty language": {"regex": r"[^\x00-\U0010FFFF]"},
    "deep regex": {"regex": "(" * 3000 + "a" + ")" * 3000},
    "deep schema": {"json": nested(200)},
    "long regex": {"regex": "a" * 400_000},
    "no type": {"json": {"type": "foo"}},
    "no reference": {"json": {"$ref": "#/nope"}},
    "endless reference": {"json": {"$ref": "#"}},
    "a reference out": {"json": {"$ref": "https://example.com/schema.json"}},
    "contradiction": {"json": {"type": "integer", "minimum": 3, "maximum": 2}},
    "not implemented": {"json": {"type": "array", "uniqueItems": True}},
    "unknown rule": {"grammar": "start: foo"},
    "endless rule": {"grammar": 'start: start "a"'},
    "no grammar": {"grammar": "?!"},
    "two types": {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
    "negation": {"json": {"not": {"type": "null"}}},
    "large choice": {"choice": ["x" * 200_000]},
}


GOOD = ["[a-c]{5}", "[a-c]{50}"]


@pytest.fixture(scope="module")
def alone(generator):
    """Tokens of two good requests without a bad one between them."""
    outputs = generator.generate(["a", "c"], [params({"regex": each}) for each in GOOD])
    return [output.token_ids for output in outputs]


def generate_between(generator, middle):
    """Return the outputs of the good requests, and that of one between them."""
    first, last = (params({"regex": each}) for each in GOOD)
    outputs = generator.generate(
        ["a", "b", "c"], [first, middle, last], on_error="return"
    )
    return [outputs[0].token_ids, outputs[2].token_ids], outputs[1]


@pytest.mark.parametrize("fields", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_structure_fails_alone(generator, alone, fields):
    started = time.monotonic()

    neighbours, error = generate_between(generator, params(fields))

    assert isinstance(error, InvalidParameterError)
    assert error.parameter == "structured_outputs"
    assert neighbours == alone
    assert time.monotonic() - started < grammars.COMPILE_TIMEOUT_S + 2


EXPLODING = [
    "(.*a.{300}b)|(x.*y.{200})",
    "((a{1,100}){1,100}){1,100}",
    "(((((a?){30}){30}){30}){30})b",
    ".*(a|b).{2000}(c|d).*e{3000}",
    "([a-z]{1,1000},){1000}",
    "(a|aa|aaa|aaaa|aaaaa){1,400}(b|bb|bbb){1,400}c{0,400}",
    "(.{0,300}a.{0,300}b.{0,300}){3}",
    "[ab]*a[ab]{28}",
]
"""Patterns with so many states that their computation stays within limits or fails."""


@pytest.mark.parametrize("pattern", EXPLODING)
def test_an_exploding_pattern_keeps_to_its_limits(generator, alone, pattern):
    started = time.monotonic()

    neighbours, outcome = generate_between(
        generator, params({"regex": pattern}, max_tokens=60)
    )

    refused = isinstance(outcome, (InvalidParameterError, RequestFailedError))
    assert refused or outcome.finish_reason in ("stop", "length")
    assert neighbours == alone
    assert time.monotonic() - started < 30


def chain(link, count, last):
    """Return definitions that each refer to the next: depth without brackets."""
    definitions = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return {"$defs": {**definitions, f"d{count}": last}, "$ref": "#/$defs/d0"}


def rules(line, count):
    lines = [line.format(n, n + 1) for n in range(count)]
    start = line.format(0, 0).partition(":")[0]
    return "\n".join([f"start: {start}", *lines, line.format(count, 0)])


LARGE = {
    "choices": {"choice": [str(number) for number in range(200_000)]},
    "alternatives": {"regex": "|".join(["ab"] * 5_000)},
    "options": {"regex": "a?" * 8_000},
    "stars": {"regex": "(a*)*" * 3_000},
    "repeats": {"regex": "a{1,1000000000}"},
    "enum": {"json": {"enum": [f"v{number}" for number in range(10_000)]}},
    "items": {"json": {"type": "array", "items": DIGIT, "minItems": 100_000}},
    "references": {"json": chain(lambda ref: ref, 3000, DIGIT)},
    "objects": {"json": chain(lambda ref: obj(a=ref), 1500, DIGIT)},
    "all of": {"json": chain(lambda ref: {"allOf": [ref, DIGIT]}, 1500, DIGIT)},
    "any of": {
        "json": chain(
            lambda ref: {"allOf": [{"anyOf": [ref, text(0, 12)]}] * 2}, 20, DIGIT
        )
    },
    "most references": {"json": chain(lambda ref: ref, 254, DIGIT)},
    "most objects": {"json": chain(lambda ref: obj(a=ref), 254, DIGIT)},
    "most rules": {"grammar": rules('r{0}: "a" | "b" r{1}', 250)},
    "doubling": {"grammar": rules('A{0}: "a" | A{1} A{1}', 40)},
    "rules": {"grammar": rules('r{0}: "a" | "b" r{1}', 3000)},
}


@pytest.mark.parametrize("fields", LARGE.values(), ids=LARGE)
def test_a_large_structure_is_compiled_or_refused_in_time(generator, fields):
    started = time.monotonic()

    try:
        start(generator, **fields).allowed()
    except InvalidParameterError as error:
        assert error.parameter == "structured_outputs"

    assert time.monotonic() - started < grammars.COMPILE_TIMEOUT_S + 2


def test_a_step_at_its_limit_fails_its_request_alone(generator, monkeypatch):
    limits = {**grammars._LIMITS, "step_lexer_fuel": 20}
    monkeypatch.setattr(grammars, "_LIMITS", limits)

    outputs = generator.generate(
        ["a", "b"],
        [
            params({"regex": "[ab]{300}c[de]{300}"}),
            params({"regex": "[a-c]{5}"}),
        ],
        on_error="return",
    )

    assert isinstance(outputs[0], (RequestFailedError, InvalidParameterError))
    assert len(outputs[1].text) == 5


def test_threads_compile_at_the_same_time(generator):
    failed = []

    def work(number):
        try:
            text = f"[a-c]{{{number % 5 + 1}}}"
            [output] = generator.generate("a", params({"regex": text}))
            assert len(output.text) == number % 5 + 1
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed


def test_a_tokenizer_without_bytes_is_refused(path):
    with (
        Generator(path, tokenizer=OwnTokenizer()) as generator,
        pytest.raises(UnsupportedParameterError, match="bytes of each token"),
    ):
        generator.submit("a", params({"regex": "a"}))


def test_llguidance_has_the_limits_that_are_set():
    assert set(grammars._LIMITS) <= set(dir(llguidance.LLParserLimits))
