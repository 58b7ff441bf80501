# SPDX-License-Identifier: Apache-2.0

"""Two hundred structures, some written by hand and most by a rule.

Each has the fields of a `StructuredOutputs` and decides whether a text conforms.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable

import attrs
import jsonschema

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


@attrs.frozen
class Structure:
    """A structure, and whether texts conform to it."""

    name: str
    fields: dict
    """Arguments of `StructuredOutputs`."""
    judge: Callable[[str], object] | None = None
    """Judge of the texts of a grammar."""

    def accepts(self, text: str) -> bool:
        if self.judge is not None:
            return bool(self.judge(text))
        if "choice" in self.fields:
            return text in self.fields["choice"]
        if "regex" in self.fields:
            return re.fullmatch(self.fields["regex"], text) is not None
        validator = jsonschema.Draft202012Validator(
            self.fields["json"], format_checker=FORMATS
        )
        return validator.is_valid(json.loads(text))


def obj(required=None, /, **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def arr(items, low=0, high=3):
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


def text(low=0, high=8):
    return {"type": "string", "minLength": low, "maxLength": high}


BIT = {"type": "boolean"}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}

# ------------------------------------------------------------------------- by a rule

_INTEGERS = [
    {"type": "integer", "minimum": low, "maximum": high}
    for low, high in (
        (0, 0),
        (0, 9),
        (-1, 1),
        (-120, -7),
        (5, 105),
        (99, 1001),
        (-3, 2**31),
        (10**12, 10**12 + 5),
    )
]
_EXCLUSIVE = [
    {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high}
    for low, high in ((0, 2), (-10, 10), (99, 201))
]
_MULTIPLES = [
    {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 500}
    for step in (2, 7, 25, 100)
]
_NUMBERS = [
    {"type": "number", "minimum": low, "maximum": high}
    for low, high in ((0, 1), (-1, 1), (0.5, 0.75), (-273.15, 100), (3, 3.5))
]
_STRINGS = [text(low, high) for low, high in ((0, 0), (0, 1), (1, 1), (3, 7), (12, 14))]
_PATTERNS = [
    {"type": "string", "pattern": pattern}
    for pattern in (
        "^[0-9]{4}-[0-9]{2}$",
        "^(a|bb|ccc)$",
        "^[A-Z]{2}[0-9]{1,3}$",
        r"^\+[0-9]{6,9}$",
        "^[α-ω]{2,4}$",
        "^(日|月|火){1,3}$",
        r"^\\{2}$",
        '^"[a-z]"$',
        "^x{0,5}y$",
        r"^[a-z]{1,4}@[a-z]{1,4}\.(com|org)$",
    )
]
_FORMATS = [
    {"type": "string", "format": name} for name in ("date", "uuid", "ipv4", "ipv6")
]
_ENUMS = [
    {"enum": options}
    for options in (
        ["a"],
        ["a", "ab", "abc"],
        [1, 10, 100],
        [None, True, False],
        ["schön", "日本", "😀"],
        ['"', "\\", "/", "\n", "\t", "\u0000"],
        [{"a": [1]}, [{"b": 2}], "c"],
        [0, "0", 0.5],
    )
]
_CONSTS = [
    {"const": value} for value in (None, "", 0, [], {}, {"k": ["v", 1]}, "a\u2028b")
]
_ARRAYS = [
    arr(items, low, high)
    for items, (low, high) in itertools.product(
        (BIT, DIGIT, text(0, 3)), ((0, 0), (1, 1), (0, 4), (3, 5))
    )
]
_TUPLES = [
    {
        "type": "array",
        "prefixItems": items,
        "items": False,
        "minItems": len(items),
    }
    for items in ([BIT], [BIT, DIGIT], [text(1, 2), {"type": "null"}, arr(BIT)])
]
_OBJECTS = [
    obj(),
    obj(a=BIT),
    obj([], a=BIT),
    obj([], a=BIT, b=DIGIT, c=text(0, 3)),
    obj(["b"], a=BIT, b=DIGIT, c=text(0, 3)),
    obj(["c", "a"], a=BIT, b=DIGIT, c=text(0, 3), d={"type": "null"}),
    obj(**{f"p{number}": BIT for number in range(20)}),
    obj([], **{f"p{number}": BIT for number in range(8)}),
    obj(**{"": BIT, " ": BIT, "a b": BIT}),
    obj(**{"ключ": text(0, 3), "鍵": DIGIT, 'q"uote': BIT, "back\\slash": BIT}),
    obj(a=obj(b=obj(c=obj(d=obj(e=obj(f=BIT)))))),
    obj(list=arr(obj(x=DIGIT, y=DIGIT), 1, 3)),
    {**obj(a=BIT), "minProperties": 1},
]
_UNIONS = [
    {"anyOf": [DIGIT, text(1, 3)]},
    {"anyOf": [obj(kind={"const": "a"}, a=BIT), obj(kind={"const": "b"}, b=DIGIT)]},
    {"anyOf": [arr(BIT, 1, 2), {"type": "null"}, {"enum": ["x"]}]},
    {"anyOf": [{"anyOf": [BIT, {"type": "null"}]}, DIGIT]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}, DIGIT]},
    {"oneOf": [obj(a=BIT), obj(b=BIT)]},
    {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", 1]}, {"const": True}]},
    {"type": ["boolean", "null"]},
    {"type": ["string", "integer"], "maxLength": 4, "minimum": 0, "maximum": 99},
    {"allOf": [{"type": "integer", "minimum": 10}, {"maximum": 20}]},
    {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 3}]},
    obj(a={"anyOf": [BIT, obj(b={"anyOf": [DIGIT, {"type": "null"}]})]}),
]
_REFERENCES = [
    {"$defs": {"n": DIGIT}, **obj(a={"$ref": "#/$defs/n"}, b={"$ref": "#/$defs/n"})},
    {"$defs": {"p": obj(x=DIGIT)}, **arr({"$ref": "#/$defs/p"}, 1, 2)},
    {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"enum": ["end"]}},
        "$ref": "#/$defs/a",
    },
    {
        "$defs": {
            "tree": obj(leaf=BIT, kids={**arr({"$ref": "#/$defs/leaf"}, 0, 2)}),
            "leaf": obj(leaf=BIT),
        },
        "$ref": "#/$defs/tree",
    },
    {"definitions": {"s": text(1, 2)}, **obj(a={"$ref": "#/definitions/s"})},
]
_REGEXES = [
    "a",
    "a?b",
    "ab*c",
    "the (the )*and",
    "(ab|cd)ef",
    "[0-9]{3}-[0-9]{4}",
    r"\([0-9]{3}\) [0-9]{3}",
    "[a-f0-9]{8}",
    r"([0-9]{1,3}\.){3}[0-9]{1,3}",
    "(true|false)(,(true|false)){0,4}",
    "(the ){1,3}end",
    "é{1,2}ü?",
    "[α-ω]{3}",
    "日本語|中文|한국어",
    "😀{2}|🏳",
    "x{40}",
    "(a|b|c){1,30}z",
    "[^a-z]{4}q",
    ".{5}",
    r"\s\S\s",
    r"\d{2}\w{2}",
    r"\{\}\[\]\|\^\$",
    "(((((a)))))",
    "#[0-9a-fA-F]{6}",
    r"[\-\]\\]{3}",
    r"\t\n?\t",
    "(a{1,3}){1,3}",
    "(x|xx|xxx|xxxx)y",
    "[0-9]{1,2}(st|nd|rd|th)",
    "(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day",
    "[01]{64}",
    r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,2})?",
    "(?i:yes|no)",
    "(?:a|b)(?:c|d)",
    r"[\u00e0-\u00ff]{2}",
    r"[^\x00-\x7f]{3}",
    "/[a-z]{1,5}(/[a-z]{1,5}){0,2}",
]
_REGEXES += [
    f"{head}[{low}-{high}]{{{least},{most}}}{tail}"
    for (head, tail), (low, high), (least, most) in itertools.product(
        (("", ""), ("<", ">")), (("a", "c"), ("0", "9"), ("А", "Я")), ((1, 2), (6, 6))
    )
]


_CHOICES = [
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
    [f"option {number} of many" for number in range(10_000)],
]
_GRAMMARS = [
    ('start: "a" "b"', lambda text: text == "ab"),
    (
        'start: "(" start ")" | "x"',
        lambda text: (
            re.fullmatch(r"\(*x\)*", text) and text.count("(") == text.count(")")
        ),
    ),
    (
        'start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/',
        lambda text: re.fullmatch(r"[0-9]{1,3}(\+[0-9]{1,3})*", text),
    ),
    (
        'start: verb " " noun\nverb: "see" | "take"\nnoun: "lamp" | "the" " " noun',
        lambda text: re.fullmatch(r"(see|take) (the )*lamp", text),
    ),
    (
        'root ::= ("a" | "ab") "bc" word\nword ::= [a-z]{1,4} "z"',
        lambda text: re.fullmatch("ab?bc[a-z]{1,4}z", text),
    ),
]


def nested(rng: random.Random, depth: int) -> dict:
    """Return a random schema of at most *depth* levels."""
    kinds = ["bit", "digit", "text", "enum"]
    if depth:
        kinds += ["object", "object", "array", "union"]
    kind = rng.choice(kinds)
    if kind == "object":
        names = rng.sample(["id", "名", "a b", "kind", "x", "ÿ"], rng.randint(1, 3))
        properties = {name: nested(rng, depth - 1) for name in names}
        return obj(rng.sample(names, rng.randint(0, len(names))), **properties)
    if kind == "array":
        low = rng.randint(0, 2)
        return arr(nested(rng, depth - 1), low, low + rng.randint(0, 2))
    if kind == "union":
        return {"anyOf": [nested(rng, depth - 1) for _ in range(rng.randint(2, 3))]}
    return {
        "bit": BIT,
        "digit": DIGIT,
        "text": text(0, rng.randint(1, 5)),
        "enum": {"enum": rng.sample(["a", 1, None, "é", "longer text"], 2)},
    }[kind]


_NESTED = [nested(random.Random(seed), depth=3) for seed in range(60)]

_SCHEMAS = {
    "integer": _INTEGERS + _EXCLUSIVE + _MULTIPLES,
    "number": _NUMBERS,
    "string": _STRINGS + _PATTERNS + _FORMATS,
    "enum": _ENUMS + _CONSTS,
    "array": _ARRAYS + _TUPLES,
    "object": _OBJECTS,
    "union": _UNIONS,
    "reference": _REFERENCES,
    "nested": _NESTED,
}
STRUCTURES = [
    *(
        Structure(f"{kind} {number}", {"json": schema, "disable_any_whitespace": True})
        for kind, schemas in _SCHEMAS.items()
        for number, schema in enumerate(schemas)
    ),
    *(
        Structure(f"regex {number}", {"regex": pattern})
        for number, pattern in enumerate(_REGEXES)
    ),
    *(
        Structure(f"choice {number}", {"choice": options})
        for number, options in enumerate(_CHOICES)
    ),
    *(
        Structure(f"grammar {number}", {"grammar": text}, judge)
        for number, (text, judge) in enumerate(_GRAMMARS)
    ),
]
"""All structures."""
