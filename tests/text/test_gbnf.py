# SPDX-License-Identifier: Apache-2.0

"""Grammars in GBNF match what GBNF says, character by character."""

from __future__ import annotations

import pytest
from text.byte_grammar import byte_compiler, matches

from unillm import StructuredOutputs
from unillm.errors import InvalidParameterError
from unillm.text.gbnf import is_gbnf


@pytest.fixture(scope="module")
def compiler():
    return byte_compiler()


JSON = r"""
# A JSON object.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""root ::= (expr "=" ws term "\n")+
expr ::= term ([-+*/] term)*
term ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num ::= [0-9]+ ws
ws ::= [ \t\n]*
"""
NAMES = """root ::= start A a fooBar foo-bar 1st _x
start ::= "1"
A ::= "2"
a ::= "3"
fooBar ::= "4"
foo-bar ::= "5"
1st ::= "6"
_x ::= "7"
"""
GRAMMARS = {
    "json": (JSON, ['{"a": [1, -2.5, "x\\"é"], "b": {}}', "{}"], ["[1]", '{"a" 1}']),
    "arithmetic": (ARITHMETIC, ["x +1= 2\n", "(a*b) /3=c\n"], ["x+=1\n", "x=1"]),
    "a class before one of its letters": ('root ::= [a-z]+ "x"', ["abx", "xx"], ["x", "ab"]),
    "a rule before one of its letters": (
        'root ::= word "x"\nword ::= [a-z]+',
        ["abx", "axx"],
        ["ab"],
    ),
    "strings with a common beginning": (
        'root ::= ("a" | "ab") "bc"',
        ["abc", "abbc"],
        ["ac", "ab"],
    ),
    "a string or its first letter": ('root ::= [a-z] | "xyz"', ["x", "xyz"], ["xy"]),
    "nested": ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "()"]),
    "left recursion": ('root ::= root "a" | "b"', ["b", "baa"], ["a"]),
    "any character": ('root ::= "a" . "b"', ["a\nb", "a日b"], ["ab"]),
    "a negated class": ("root ::= [^a-c\\n]+", ["xyz", "日"], ["xa", "x\n"]),
    "an empty negation": ("root ::= [^]", ["x", "\n"], [""]),
    "escapes in a class": (r"root ::= [\]\[\\^\-&~]+", [r"]^[-\&&~~"], ["a"]),
    "hyphens at the ends of a class": ("root ::= [-a]+ [b-]+", ["-a-b-"], ["+b"]),
    "escapes in a string": (r'root ::= "\x41\u00e9\U0001F600\t\"\\\[\]"', ['Aé😀\t"\\[]'], ["A"]),
    "codes in a class": (r"root ::= [\x41-\x43\u00e0-\u00ef]+", ["ACé"], ["D", "ö"]),
    "a slash": ('root ::= "a/b" [/]', ["a/b/"], ["a/b"]),
    "signs of other notations": ('root ::= "a$|%" [$.*]', ["a$|%."], ["a$|%x"]),
    "repetitions": (
        'root ::= "a"{2} [b]{1,} "c"{0,2} ("d" | "e"){,1} "f"?',
        ["aab", "aabbccef"],
        ["ab", "aabccc", "aabde"],
    ),
    "a repetition of a repetition": ('root ::= ("a"?)*', ["", "aaa"], ["b"]),
    "names": (
        NAMES,
        ["1234567"],
        ["1324567"],
    ),
    "an empty alternative": ('root ::= "a" rest\nrest ::= | "b"', ["a", "ab"], ["b"]),
    "lines": ('\n root ::=\n  "a" |\n  "b" ("c"\n | "d"\n)\r\n', ["a", "bd"], ["b"]),
    "a rule over several lines": ('root ::= "a"\n  "b"\n  | "c"\nx ::= "d"', ["ab", "c"], ["a"]),
    "comments": ('# one\nroot ::= "a#" # two\n# three', ["a#"], ["a"]),
    "a rule without a space": ('root::="a"', ["a"], ["b"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("grammar", "matching", "others"), GRAMMARS.values(), ids=GRAMMARS
)
def test_a_grammar_matches_whole_texts(compiler, grammar, matching, others):
    assert [
        each for each in matching if not matches(compiler, each, grammar=grammar)
    ] == []
    assert [each for each in others if matches(compiler, each, grammar=grammar)] == []


WRONG = {
    "a rule that is missing": ('root ::= "a"\nfoo ::= bar', "line 2, at 'bar': the rule 'bar' is not defined"),
    "a rule twice": ('root ::= "a"\nroot ::= "b"', "line 2, at 'root ::= \"b\"': the rule 'root' is defined twice"),
    "no end of a string": ('root ::= "a', "ends within a string"),
    "no end of a class": ("root ::= [a", "ends within a string or a character class"),
    "no end of a group": ('root ::= ("a"', "`)` was expected"),
    "an end of no group": ('root ::= "a")', "line 1, at ')': a rule `name ::= …` was expected"),
    "no rule": ('"b"\nroot ::= "a"', "line 1, at '\"b\"': a rule `name ::= …` was expected"),
    "an escape": (r'root ::= "\q"', "an escape such as"),
    "half a surrogate pair": (r'root ::= "\ud800"', "an escape such as"),
    "a code that is too high": (r'root ::= "\U00110000"', "an escape such as"),
    "a reversed range": ("root ::= [z-a]", "the range 'z' to 'a' is reversed"),
    "an empty class": ("root ::= []", "`[]` matches nothing"),
    "a reversed repetition": ('root ::= "a"{3,1}', "{3,1} ends before it begins"),
    "an empty repetition": ('root ::= "a"{,}', "a repetition `{m}`"),
    "two repetitions": ('root ::= "a"?*', "'*' is not supported; strings"),
    "a token": ("root ::= <[1000]>", "'<' is not supported; strings, character classes"),
    "deep": ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "more than 64 levels deep"),
    "a long string": ('root ::= "' + "x" * 70_000 + '"', "more than the 65 000 symbols"),
    "many rules": (
        "\n".join(["root ::= r0", *(f'r{n} ::= "a" r{n + 1}' for n in range(255)), 'r255 ::= ""']),
        "it has 257 references or rules, 256 are allowed",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("grammar", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_grammar_is_refused_with_its_line(compiler, grammar, says):
    with pytest.raises(InvalidParameterError) as caught:
        compiler.compile(StructuredOutputs(grammar=grammar))

    assert says in str(caught.value)
    assert caught.value.parameter == "structured_outputs"


def test_brackets_in_strings_are_not_counted(compiler):
    assert matches(compiler, "(" * 70, grammar='root ::= "(((((((((("{7}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('root ::= "a"', True),
        ('a ::= "b"\n  root\t::= a', True),
        ('start: "root ::= "', False),
        ('start: "a"', False),
        ('sub-root ::= "a"', False),
    ],
)
def test_gbnf_is_known_by_its_root(text, expected):
    assert is_gbnf(text) is expected
