# SPDX-License-Identifier: Apache-2.0

"""`StructuredOutputs` in the three notations that llguidance reads.

The core compiles this form, and an engine with llguidance of its own gets the same one,
so a structure means the same on both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from ..structured_outputs import LITERAL, StructuredOutputs, closed
from .gbnf import is_gbnf, lark_of_gbnf

_ANNOTATIONS = frozenset(
    {"$comment", "default", "deprecated", "description", "examples", "title"}
)
"""Keywords of JSON Schema that allow everything."""


@attrs.frozen
class StructureNotation:
    """A structure as one text for llguidance."""

    kind: Literal["json", "lark", "regex"]
    text: str
    """``json``: a JSON schema, with the options of llguidance under ``x-guidance``."""

    def unforced(self) -> str:
        """Return it in Lark's notation, so that llguidance never spells a text itself.

        Where only one text may follow, llguidance gives its usual ids by default. With
        a tokenizer that changes texts those are the ids of another text.
        """
        from llguidance import regex_to_lark

        lark = self.text
        if self.kind == "json":
            lark = f"start: %json {self.text}"
        elif self.kind == "regex":
            lark = f"start: /{regex_to_lark(self.text)}/"
        return f'%llguidance {{"no_forcing": true}}\n{lark}'


def structure_notation(wanted: StructuredOutputs) -> StructureNotation:
    """Return the structure in a notation of llguidance.

    Raises:
        ValueError: A grammar in GBNF cannot be read.
    """
    if wanted.kind == "regex":
        return StructureNotation("regex", wanted.source)
    if wanted.kind == "choice":
        # One token of the lexer: each alternative of a rule would be one of its own.
        options = " | ".join(
            json.dumps(each, ensure_ascii=False) for each in wanted.choice or ()
        )
        return StructureNotation("lark", f"start: CHOICE\nCHOICE: {options}")
    if wanted.kind == "grammar":
        gbnf = is_gbnf(wanted.source)
        return StructureNotation(
            "lark", lark_of_gbnf(wanted.source) if gbnf else wanted.source
        )
    return StructureNotation("json", _schema(wanted))


def _schema(wanted: StructuredOutputs) -> str:
    schema: dict[str, Any] = json.loads(wanted.source)
    if wanted.disable_additional_properties:
        schema = closed(schema)
    options: dict[str, Any] = {}
    if wanted.disable_any_whitespace:
        options = {
            "whitespace_flexible": False,
            "item_separator": ",",
            "key_separator": ":",
        }
    elif wanted.whitespace_pattern is not None:
        # llguidance's own option of this name lets matches follow each other for ever.
        gap = f"(?:{wanted.whitespace_pattern})"
        options = {
            "whitespace_flexible": False,
            "item_separator": f"{gap},{gap}",
            "key_separator": f"{gap}:{gap}",
        }
    if options:
        schema["x-guidance"] = {**schema.get("x-guidance", {}), **options}
    return json.dumps(_with_values(schema))


def _with_values(schema: Any) -> Any:
    """Return a schema whose ``oneOf`` of single values are an ``enum``.

    llguidance takes a ``oneOf`` only where it can prove that no value fits two of its
    branches. Values that are written down can be counted.
    """
    if isinstance(schema, list):
        return [_with_values(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {
        key: value if key in LITERAL else _with_values(value)
        for key, value in schema.items()
    }
    branches = changed.get("oneOf")
    if not isinstance(branches, list) or "enum" in changed or "const" in changed:
        return changed
    values = [_values(branch) for branch in branches]
    if None in values:
        return changed
    options = _in_one(each for each in values if each is not None)
    return {
        "enum" if key == "oneOf" else key: options if key == "oneOf" else value
        for key, value in changed.items()
    }


def _values(branch: Any) -> dict[str, Any] | None:
    """Return the values of a branch by their `_identity`, if it lists them."""
    if not isinstance(branch, Mapping):
        return None
    keywords = branch.keys() - _ANNOTATIONS
    if keywords == {"const"}:
        return {_identity(branch["const"]): branch["const"]}
    if keywords == {"enum"} and isinstance(branch["enum"], list):
        return {_identity(value): value for value in branch["enum"]}
    return None


def _in_one(branches: Iterable[Mapping[str, Any]]) -> list[Any]:
    values: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for branch in branches:
        for identity, value in branch.items():
            values.setdefault(identity, value)
            counts[identity] = counts.get(identity, 0) + 1
    return [value for identity, value in values.items() if counts[identity] == 1]


def _identity(value: Any) -> str:
    """Return a text that is equal for equal values: 1 and 1.0 are, 1 and true not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return f"[{','.join(map(_identity, value))}]"
    if isinstance(value, Mapping):
        pairs = sorted((json.dumps(k), _identity(v)) for k, v in value.items())
        return f"{{{','.join(f'{k}:{v}' for k, v in pairs)}}}"
    return json.dumps(value)
