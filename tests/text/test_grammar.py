# SPDX-License-Identifier: Apache-2.0

"""Grammars without an engine: the ids that may come next, and refused grammars."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from text.oracle import id_of

from unillm import StructuredOutputs
from unillm.errors import InvalidParameterError, UnsupportedParameterError
from unillm.model.find import find_model
from unillm.text import grammar
from unillm.text.grammar import GrammarCompiler
from unillm.text.loading import load_tokenizer

PADDING = 5
"""Rows of the model's matrix without a token."""

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_model("unillm/tiny"))


@pytest.fixture(scope="module")
def ends(tokenizer):
    names = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    return [id_of(tokenizer, name) for name in names]


@pytest.fixture
def compiler(tokenizer, ends):
    return GrammarCompiler(
        tokenizer, vocab_size=tokenizer.vocab_size + PADDING, eos_ids=[*ends, 10**6]
    )


def allowed(state) -> set[int]:
    mask = state.allowed()
    return {n for n in range(8 * len(mask)) if mask[n // 8] >> (n % 8) & 1}


@pytest.fixture
def matches(compiler, tokenizer, ends):
    """Return whether a text, and then an EOS token, matches a grammar."""

    def matches(text, **wanted):
        state = compiler.compile(StructuredOutputs(**wanted)).start()
        for token_id in tokenizer.encode(text, add_special_tokens=False):
            if token_id not in allowed(state):
                return False
            state.accept(token_id)
        assert not state.error
        return set(ends) <= allowed(state)

    return matches


NUMBERS = {"type": "array", "items": {"type": "integer"}}


@pytest.mark.parametrize(
    ("wanted", "matching", "others"),
    [
        ({"choice": ['say "yes"', "no"]}, ['say "yes"', "no"], ["non", ""]),
        ({"regex": "[ab]{4}"}, ["abba"], ["abb", "abbab"]),
        ({"grammar": 'start: "x" other*\nother: "y"'}, ["xyy"], ["yy"]),
        ({"json": OBJECT}, ['{"a": 1}', '{"a":1}'], ['{"b": 1}']),
        ({"json_object": True}, ['{"what": [1, "ever"]}'], ["[1]"]),
        (
            {"json": OBJECT, "disable_any_whitespace": True},
            ['{"a":1}'],
            ['{"a": 1}'],
        ),
        ({"json": NUMBERS, "disable_any_whitespace": True}, ["[1,2]"], ["[1, 2]"]),
        (
            {"json": OBJECT, "whitespace_pattern": "[ ]{2}"},
            ['{"a"  :  1}'],
            ['{"a" : 1}', '{"a"    :    1}', '{"a":1}'],
        ),
        (
            {"json": NUMBERS, "whitespace_pattern": "|\\n| "},
            ["[1, 2]", "[1,2]", "[1 ,\n2]"],
            ["[1,  2]", "[1,\n 2]", "[ 1, 2]"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_grammar_matches_whole_texts(matches, wanted, matching, others):
    assert [matches(text, **wanted) for text in matching] == [True] * len(matching)
    assert [matches(text, **wanted) for text in others] == [False] * len(others)


def test_rows_that_only_pad_the_matrix_are_never_allowed(compiler, tokenizer):
    state = compiler.compile(StructuredOutputs(regex=r"(.|\n)*")).start()

    seen = allowed(state)

    assert len(seen) > 200
    assert max(seen) < tokenizer.vocab_size


def test_eos_tokens_are_allowed_only_where_the_grammar_may_end(
    compiler, tokenizer, ends
):
    state = compiler.compile(StructuredOutputs(regex="q(z)?")).start()
    assert not set(ends) & allowed(state)

    for text in ("q", "z"):
        [token_id] = tokenizer.encode(text, add_special_tokens=False)
        state.accept(token_id)
        assert set(ends) <= allowed(state)

    assert allowed(state) == set(ends)


def test_special_tokens_are_never_allowed_as_text(compiler, tokenizer, ends):
    state = compiler.compile(StructuredOutputs(regex=r"(.|\n)*")).start()

    others = tokenizer.special_token_ids - set(ends)
    assert others
    assert not others & allowed(state)


def test_a_token_that_may_not_follow_is_an_error_of_its_state_alone(
    compiler, tokenizer
):
    compiled = compiler.compile(StructuredOutputs(choice=["yes", "no"]))
    state, other = compiled.start(), compiled.start()
    assert state.error == ""

    state.accept(tokenizer.encode("z", add_special_tokens=False)[0])

    assert state.error
    assert "\n" not in state.error
    assert "<state>" not in state.error
    assert other.error == ""
    assert allowed(other)


# ------------------------------------------------------------------------------ cache


def test_a_compiled_grammar_is_cached(compiler):
    wanted = StructuredOutputs(choice=["yes"])

    compiled = compiler.compile(wanted)

    assert compiler.compile(wanted) is compiled
    assert compiler.compile(StructuredOutputs(choice=["yes"])) is compiled


def test_the_least_recently_used_grammar_leaves_the_cache(compiler, monkeypatch):
    monkeypatch.setattr(grammar, "CACHED", 2)
    one, two, three = (StructuredOutputs(choice=[text]) for text in ("a", "b", "c"))
    first, second = compiler.compile(one), compiler.compile(two)
    compiler.compile(one)

    compiler.compile(three)

    assert compiler.compile(one) is first
    assert compiler.compile(two) is not second


# --------------------------------------------------------------------------- refusals


def refusal(compiler, **wanted):
    with pytest.raises(InvalidParameterError) as caught:
        compiler.compile(StructuredOutputs(**wanted))
    assert caught.value.parameter == "structured_outputs"
    assert caught.value.value == StructuredOutputs(**wanted)
    [message] = str(caught.value).splitlines()
    return message


def test_a_regex_may_have_16_thousand_characters(compiler):
    compiler.compile(StructuredOutputs(regex="a" * 1000))

    assert refusal(compiler, regex="a" * 16385) == (
        "structured_outputs: this regex cannot be used: it has 16385 characters, 16384 "
        "are allowed. Correct or simplify it."
    )


def test_a_choice_may_have_two_million_characters(compiler):
    options = [f"{number} {'x' * 16_300}" for number in range(130)]

    assert "it has 2119539 characters, 2097152 are allowed" in refusal(
        compiler, choice=options
    )
    assert "an option has 16385 characters, 16384 are allowed" in refusal(
        compiler, choice=["yes", "x" * 16_385]
    )


def test_the_limits_themselves_are_allowed(compiler, monkeypatch):
    monkeypatch.setattr(grammar, "MAX_REGEX_CHARS", 5)
    monkeypatch.setattr(grammar, "MAX_CHOICE_CHARS", 7)
    monkeypatch.setattr(grammar, "MAX_OPTION_CHARS", 7)
    monkeypatch.setattr(grammar, "MAX_CHARS", 10)

    compiler.compile(StructuredOutputs(regex="aaaaa"))
    compiler.compile(StructuredOutputs(choice=["aaaaaaa"]))
    compiler.compile(StructuredOutputs(grammar='start: "a"'))

    assert "6 characters, 5" in refusal(compiler, regex="aaaaaa")
    assert "8 characters, 7" in refusal(compiler, choice=["aaaaaaaa"])
    assert "11 characters, 10" in refusal(compiler, grammar='start: "aa"')


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"anyOf": [schema]}
    return schema


def test_brackets_may_stand_64_deep(compiler):
    compiler.compile(StructuredOutputs(regex="(" * 64 + "a" + ")" * 64))
    compiler.compile(StructuredOutputs(regex="(a)" * 100))
    compiler.compile(StructuredOutputs(json=nested(31)))

    expected = "it is 65 levels deep and 64 are allowed"
    assert expected in refusal(compiler, regex="(" * 65 + "a" + ")" * 65)
    assert expected in refusal(compiler, json=nested(32))
    assert expected in refusal(compiler, regex=")))" + "(" * 65 + "a")


def test_brackets_in_a_choice_are_text(matches):
    text = "[({" * 30
    assert matches(text, choice=[text])


@pytest.mark.parametrize("wanted", ["rules", "references"])
def test_rules_and_references_are_counted(compiler, wanted):
    def options(count):
        if wanted == "rules":
            rules = "\n".join(f'r{n}: "a"' for n in range(count - 1))
            return {"grammar": f"start: r0\n{rules}"}
        references = [{"$ref": "#/$defs/a"}] * count
        return {"json": {"$defs": {"a": {"type": "integer"}}, "anyOf": references}}

    compiler.compile(StructuredOutputs(**options(256)))

    expected = "it has 257 references or rules, 256 are allowed"
    assert expected in refusal(compiler, **options(257))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"regex": "("}, "unclosed group"),
        ({"grammar": "start: foo"}, 'unknown name: "foo"'),
        ({"json": {"type": "nothing"}}, "Invalid type: nothing"),
        ({"json": {"type": "integer", "minimum": 3, "maximum": 2}}, "Unsatisfiable"),
        ({"regex": r"[^\s\S]"}, "no text of this tokenizer can satisfy it"),
    ],
)
def test_the_message_of_llguidance_is_in_the_error(compiler, wanted, says):
    assert says in refusal(compiler, **wanted)


def test_an_exception_of_the_compiler_is_in_the_error(compiler, monkeypatch):
    def fail(_, *, forces):
        raise RuntimeError("broken")

    monkeypatch.setattr(grammar, "_grammar_text", fail)

    assert "cannot be used: RuntimeError: broken." in refusal(compiler, regex="a")


def test_a_caller_waits_a_limited_time(compiler, monkeypatch):
    monkeypatch.setattr(grammar, "COMPILE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(grammar, "_grammar_text", lambda _, *, forces: time.sleep(0.5))

    assert "compiling it takes more than 0.05 s" in refusal(compiler, regex="a")


def test_the_stack_of_other_threads_is_left_as_it_was(compiler):
    before = threading.stack_size()

    compiler.compile(StructuredOutputs(regex="abc"))

    assert threading.stack_size() == before


def test_a_tokenizer_whose_tokens_depend_on_their_neighbours_is_refused(families, ends):
    [unknown] = [
        tokenizer
        for tokenizer in map(load_tokenizer, families.values())
        if tokenizer.pieces is None
    ][:1]
    compiler = GrammarCompiler(unknown, vocab_size=500, eos_ids=[0])

    with pytest.raises(
        UnsupportedParameterError, match="on their neighbours"
    ) as caught:
        compiler.compile(StructuredOutputs(regex="a"))

    assert caught.value.parameter == "structured_outputs"


def test_a_model_without_an_eos_token_of_its_own_is_refused(tokenizer):
    compiler = GrammarCompiler(tokenizer, vocab_size=500, eos_ids=[500, 10**6])

    with pytest.raises(
        UnsupportedParameterError, match="needs an EOS token to end the text with"
    ) as caught:
        compiler.compile(StructuredOutputs(regex="a"))

    assert caught.value.parameter == "structured_outputs"


def test_the_error_without_llguidance_says_what_to_install(compiler, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)

    with pytest.raises(
        UnsupportedParameterError, match=r"pip install .*\[structured\]"
    ) as caught:
        compiler.compile(StructuredOutputs(regex="a"))

    assert caught.value.parameter == "structured_outputs"


def test_a_long_message_of_llguidance_is_cut(compiler):
    message = refusal(compiler, grammar=f"start: {'name' * 200}")

    assert 500 < len(message) < 650


@pytest.mark.parametrize(
    ("text", "depth"),
    [("XX", 0), ("([{", 3), ("()[]{}", 1), ("([)]{", 2), ("))((", 2)],
)
def test_the_depth_counts_brackets_of_all_kinds(compiler, monkeypatch, text, depth):
    monkeypatch.setattr(grammar, "MAX_DEPTH", -1)

    assert f"it is {depth} levels deep" in refusal(compiler, regex=text)
