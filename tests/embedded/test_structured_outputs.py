# SPDX-License-Identifier: Apache-2.0

"""Structured outputs on a random model: whatever it would say, the text conforms."""

from __future__ import annotations

import json
import re
import sys
import threading
import time

import llguidance
import pytest
from embedded.byte_tokenizer import EOS, save_model

from unillm import Generator, SamplingParams, StructuredOutputs
from unillm.errors import (
    InvalidParameterError,
    RequestFailedError,
    UnsupportedParameterError,
)
from unillm.text import grammar as grammars
from unillm.text.grammar import GrammarCompiler
from unillm.text.loading import load_tokenizer


def object_of(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "maxLength": 12}
NUMBER = {"type": "integer", "minimum": -5, "maximum": 500}
LIST = {"type": "array", "items": NUMBER, "minItems": 1, "maxItems": 4}

SCHEMAS = [
    TEXT,
    NUMBER,
    LIST,
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["red", "green", 3, None, [1]]},
    {"const": {"a": [1, 2]}},
    {"type": ["string", "null"], "maxLength": 5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "minLength": 3, "maxLength": 4},
    {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    {"anyOf": [NUMBER, {"enum": ["x"]}]},
    {"type": "array", "prefixItems": [NUMBER, TEXT], "minItems": 2, "maxItems": 2},
    object_of(),
    object_of(name=TEXT),
    object_of(name=TEXT, age=NUMBER),
    object_of(deep=object_of(deeper=object_of(deepest=LIST))),
    object_of(many={"type": "array", "items": object_of(v=NUMBER), "maxItems": 3}),
    object_of(**{f"field{number}": {"type": "boolean"} for number in range(12)}),
    object_of(**{"schöne Ecke": TEXT, 'quo"ted': NUMBER}),
    {"$defs": {"n": NUMBER}, **object_of(one={"$ref": "#/$defs/n"})},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
]
REGEXES = [
    "a",
    "ab*c",
    "(yes|no)!?",
    "[0-9]{3}-[0-9]{4}",
    r"\([0-9]{3}\)",
    "[a-f]{2,9}",
    "[A-Z][a-z]{1,10}",
    r"([0-9]{1,3}\.){3}[0-9]{1,3}",
    "(true|false)(, (true|false)){0,4}",
    "the (the )*and",
    "é+ü?x",
    "[α-ω]{3}",
    "日本語|中文",
    "x{40}",
    "(a|b|c){1,30}z",
    ".{5}",
    "[^a-z]{4}q",
    "a/b/c",
    '"quoted"',
    r"\s\S\s",
    r"\{\}\[\]",
    "(?i:hello)",
    "(((a)))",
    "#?[0-9a-f]{6}",
    "😀{2}",
]
CHOICES = [
    ["a"],
    ["true", "false"],
    ["the", "then", "they"],
    ["positive", "negative", "neutral"],
    [" leading", "trailing "],
    ['with "quotes"', "back\\slash", "/slash/"],
    ["new\nline", "tab\t"],
    ["schön", "日本"],
    [str(number) for number in range(60)],
    ["[", "("],
    ["a", "ab", "abc"],
]
GRAMMARS = [
    'start: "a" "b"',
    'start: "(" start ")" | "x"',
    'start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/',
    'start: verb " " noun\nverb: "see" | "take"\nnoun: "lamp" | "the" " " noun',
]


def is_sum(text):
    return re.fullmatch(r"[0-9]{1,3}(\+[0-9]{1,3})*", text)


GRAMMAR_CHECKS = [
    lambda text: text == "ab",
    lambda text: re.fullmatch(r"\(*x\)*", text) and text.count("(") == text.count(")"),
    is_sum,
    lambda text: re.fullmatch(r"(see|take) (the )*lamp", text),
]


CASES = [
    *(({"json": schema}, schema) for schema in SCHEMAS),
    *(({"regex": pattern}, pattern) for pattern in REGEXES),
    *(({"choice": options}, options) for options in CHOICES),
    *(
        ({"grammar": text}, check)
        for text, check in zip(GRAMMARS, GRAMMAR_CHECKS, strict=True)
    ),
]


def conforms(text, case) -> bool:
    fields, expected = case
    if "json" in fields:
        return parses_as(json.loads(text), expected)
    if "regex" in fields:
        return re.fullmatch(expected, text) is not None
    if "choice" in fields:
        return text in expected
    return bool(expected(text))


def parses_as(value, schema) -> bool:
    """A validator of what the schemas above use."""
    if "$ref" in schema:
        return parses_as(value, NUMBER)
    if "anyOf" in schema:
        return any(parses_as(value, each) for each in schema["anyOf"])
    if "allOf" in schema:
        return 3 <= value <= 9
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return value == schema["const"]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(_is_kind(value, kind, schema) for kind in kinds)


def _is_kind(value, kind, schema) -> bool:
    if kind == "string":
        low, high = schema.get("minLength", 0), schema.get("maxLength", 99)
        pattern = schema.get("pattern", "")
        fits = isinstance(value, str) and low <= len(value) <= high
        return fits and re.search(pattern, value) is not None
    if kind in ("integer", "number"):
        low, high = schema["minimum"], schema["maximum"]
        return (
            low <= value <= high and value % schema.get("multipleOf", value or 1) == 0
        )
    if kind == "array":
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        pairs = zip(value, items, strict=True)
        fits = schema.get("minItems", 0) <= len(value) <= schema["maxItems"]
        return fits and all(parses_as(each, item) for each, item in pairs)
    if kind == "object":
        properties = schema["properties"]
        same = set(value) == set(properties)
        return same and all(parses_as(value[k], each) for k, each in properties.items())
    return value is None if kind == "null" else isinstance(value, bool)


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


@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["sampled", "greedy"])
def test_every_output_parses_and_matches(generator, temperature):
    """All in one call: each row of the batches has a grammar of its own."""
    asked = [
        params(
            {**fields, "disable_any_whitespace": "json" in fields},
            temperature=temperature,
        )
        for fields, _ in CASES
    ]
    prompts = [f"prompt {number}" for number in range(len(CASES))]

    outputs = generator.generate(prompts, asked)

    assert len(CASES) >= 60
    ended = 0
    for case, output in zip(CASES, outputs, strict=True):
        if output.finish_reason == "stop":
            ended += 1
            assert conforms(output.text, case), (case, output.text)
            assert output.token_ids[-1] == EOS
        else:
            assert_is_prefix(generator, case, output)
    assert ended >= len(CASES) - 4


def compiler(generator):
    """Return a compiler of grammars over the generator's tokenizer."""
    return GrammarCompiler(
        load_tokenizer(generator.get_tokenizer()),
        vocab_size=generator.limits.vocab_size,
        eos_ids=generator.eos_token_ids,
    )


def assert_is_prefix(generator, case, output):
    """It was cut off: more tokens could still make it conform."""
    state = (
        compiler(generator)
        .compile(StructuredOutputs(**case[0], disable_any_whitespace="json" in case[0]))
        .start()
    )
    for token_id in output.token_ids:
        state.accept(token_id)
    assert any(state.allowed())
    assert not state.error


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


def test_a_pydantic_model_is_taken(generator):
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        right: bool
        grade: int = pydantic.Field(ge=0, le=9)

    structured = StructuredOutputs(json=Answer, disable_any_whitespace=True)

    [output] = generator.generate("grade it", params(structured))

    assert Answer.model_validate_json(output.text)
    assert output.finish_reason == "stop"


def test_an_end_is_allowed_exactly_where_the_grammar_may_end(generator):
    state = compiler(generator).compile(StructuredOutputs(regex="ab*")).start()

    def allowed():
        bits = "".join(f"{byte:08b}"[::-1] for byte in state.allowed())
        return {place for place, bit in enumerate(bits) if bit == "1"}

    ids = generator.get_tokenizer().encode("ab").ids
    assert EOS not in allowed()
    state.accept(ids[0])
    assert EOS in allowed()
    state.accept(ids[1])
    assert allowed() == {EOS, ids[1]}


# ------------------------------------------------------------------------ what is wrong


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
def test_what_is_no_structure_is_refused_at_once(fields):
    with pytest.raises((InvalidParameterError, TypeError)):
        SamplingParams(structured_outputs=fields)


def test_ignoring_the_end_contradicts_it():
    with pytest.raises(InvalidParameterError, match="ignore_eos"):
        SamplingParams(structured_outputs={"regex": "a"}, ignore_eos=True)


def test_the_callers_schema_is_not_kept():
    schema = object_of(a=NUMBER)
    structured = StructuredOutputs(json=schema)

    schema["properties"]["b"] = NUMBER

    assert json.loads(structured.json) == object_of(a=NUMBER)
    assert hash(structured) == hash(StructuredOutputs(json=structured.json))


def nested(depth):
    schema = NUMBER
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
}


@pytest.mark.parametrize("fields", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_one_fails_alone_before_the_engine_sees_it(generator, fields):
    good = params({"regex": "[a-c]{5}"})
    started = time.monotonic()

    outputs = generator.generate(
        ["a", "b", "c"], [good, params(fields), good], on_error="return"
    )

    assert isinstance(outputs[1], InvalidParameterError)
    assert outputs[1].parameter == "structured_outputs"
    assert [len(outputs[place].text) for place in (0, 2)] == [5, 5]
    assert time.monotonic() - started < grammars.COMPILE_TIMEOUT_S + 2


EXPLODING = [
    "(.*a.{300}b)|(x.*y.{200})",
    "((a{1,100}){1,100}){1,100}",
    "(((((a?){30}){30}){30}){30})b",
    ".*(a|b).{2000}(c|d).*e{3000}",
    "([a-z]{1,1000},){1000}",
]


@pytest.mark.parametrize("pattern", EXPLODING)
def test_an_exploding_one_keeps_to_its_limits(generator, pattern):
    good = params({"regex": "[a-c]{50}"})
    started = time.monotonic()

    outputs = generator.generate(
        ["a", "b", "c"],
        [good, params({"regex": pattern}, max_tokens=60), good],
        on_error="return",
    )

    assert [len(outputs[place].text) for place in (0, 2)] == [50, 50]
    if isinstance(outputs[1], Exception):
        assert isinstance(outputs[1], (InvalidParameterError, RequestFailedError))
    assert time.monotonic() - started < 30


def chain(link, count, last):
    """Definitions of which each refers to the next one: depth that no bracket shows."""
    definitions = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(count)}
    return {"$defs": {**definitions, f"d{count}": last}, "$ref": "#/$defs/d0"}


def rules(line, count):
    lines = [line.format(n, n + 1) for n in range(count)]
    start = line.format(0, 0).partition(":")[0]
    return "\n".join([f"start: {start}", *lines, line.format(count, 0)])


LARGE = {
    "choices": {"choice": [str(number) for number in range(20_000)]},
    "alternatives": {"regex": "|".join(["ab"] * 5_000)},
    "options": {"regex": "a?" * 8_000},
    "stars": {"regex": "(a*)*" * 3_000},
    "repeats": {"regex": "a{1,1000000000}"},
    "enum": {"json": {"enum": [f"v{number}" for number in range(10_000)]}},
    "items": {"json": {"type": "array", "items": NUMBER, "minItems": 100_000}},
    "references": {"json": chain(lambda ref: ref, 3000, NUMBER)},
    "objects": {"json": chain(lambda ref: object_of(a=ref), 1500, NUMBER)},
    "all of": {"json": chain(lambda ref: {"allOf": [ref, NUMBER]}, 1500, NUMBER)},
    "any of": {
        "json": chain(lambda ref: {"allOf": [{"anyOf": [ref, TEXT]}] * 2}, 20, NUMBER)
    },
    "most references": {"json": chain(lambda ref: ref, 254, NUMBER)},
    "most objects": {"json": chain(lambda ref: object_of(a=ref), 254, NUMBER)},
    "most rules": {"grammar": rules('r{0}: "a" | "b" r{1}', 250)},
    "doubling": {"grammar": rules('A{0}: "a" | A{1} A{1}', 40)},
    "rules": {"grammar": rules('r{0}: "a" | "b" r{1}', 3000)},
}


@pytest.mark.parametrize("fields", LARGE.values(), ids=LARGE)
def test_a_large_one_is_compiled_or_refused_within_its_time(generator, fields):
    started = time.monotonic()

    try:
        state = compiler(generator).compile(StructuredOutputs(**fields)).start()
        state.allowed()
    except InvalidParameterError as error:
        assert error.parameter == "structured_outputs"

    assert time.monotonic() - started < grammars.COMPILE_TIMEOUT_S + 2


def test_compiling_is_given_up_after_its_time(monkeypatch, generator):
    monkeypatch.setattr(grammars, "COMPILE_TIMEOUT_S", 0.05)
    blocked = threading.Event()
    monkeypatch.setattr(grammars, "_grammar_text", lambda _: blocked.wait(10))

    with pytest.raises(InvalidParameterError, match=r"takes more than 0.05 s"):
        generator.submit("a", params({"regex": "slow one"}))
    blocked.set()


def test_a_step_at_its_limit_fails_that_request_alone(generator, monkeypatch):
    limits = {**grammars._LIMITS, "max_lexer_states": 60}
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


# ------------------------------------------------------------------------- the compiler


def test_what_was_compiled_is_kept_within_a_bound(path, monkeypatch):
    monkeypatch.setattr(grammars, "CACHED", 3)
    tokenizer = load_tokenizer(path / "tokenizer.json")
    compiler = GrammarCompiler(tokenizer, vocab_size=300, eos_ids=[EOS])
    wanted = [StructuredOutputs(regex=f"a{number}") for number in range(5)]

    compiled = [compiler.compile(each) for each in wanted]

    assert compiler.compile(wanted[4]) is compiled[4]
    assert compiler.compile(wanted[0]) is not compiled[0]
    assert len(compiler._cache) == 3


def test_many_threads_compile_at_the_same_time(generator):
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


class OwnTokenizer:
    eos_token_id = 2
    vocab_size = 260

    def encode(self, text):
        return [3 + byte for byte in text.encode()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def test_a_tokenizer_without_bytes_is_refused(path):
    with (
        Generator(path, tokenizer=OwnTokenizer()) as generator,
        pytest.raises(UnsupportedParameterError, match="bytes of each token"),
    ):
        generator.submit("a", params({"regex": "a"}))


def test_without_llguidance_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with (
        Generator(path) as generator,
        pytest.raises(UnsupportedParameterError, match=r"unillm\[structured\]"),
    ):
        generator.submit("a", params({"regex": "a"}))


def test_llguidance_is_the_one_that_counts_its_work():
    assert set(grammars._LIMITS) <= set(dir(llguidance.LLParserLimits))
