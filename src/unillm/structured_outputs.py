# SPDX-License-Identifier: Apache-2.0

"""`StructuredOutputs`: a constraint on the text of a completion."""

from __future__ import annotations

import json as _json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import attrs

from .errors import InvalidParameterError
from .fields import as_items, as_text, bool_field, refuse, text_field
from .keywords import suggest_names

UNAVAILABLE_CONSTRAINTS: Mapping[str, str] = {
    "structural_tag": "no backend has it; a grammar may hold JSON between other text",
}
"""Fields of vLLM's ``StructuredOutputsParams`` that are not in `StructuredOutputs`."""

_HARMLESS_CONSTRAINTS: Mapping[str, tuple[Any, ...]] = {
    "json_object": (None,),
    "structural_tag": (None,),
}
"""Their values that request what `StructuredOutputs` does anyway."""


LITERAL = frozenset({"const", "default", "enum", "examples"})
"""Keywords of a JSON schema whose value is JSON and not a schema."""

_NAMES = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
"""Keywords whose value is an object of schemas by name."""


def closed(schema: Any) -> Any:
    """Return a schema whose objects have the properties alone that it names.

    An object that says itself which others it has keeps that. So does one with an
    ``allOf``, and its parts: each would forbid the properties of the others.
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: value
        if key in LITERAL or key == "allOf"
        else {name: closed(each) for name, each in value.items()}
        if key in _NAMES and isinstance(value, dict)
        else closed(value)
        for key, value in schema.items()
    }
    if found.keys() & {"patternProperties", "properties"} and "allOf" not in found:
        found.setdefault("additionalProperties", False)
    return found


def _as_choice(value: Iterable[str] | None) -> tuple[str, ...] | None:
    expected = "a list of at least one non-empty text"
    return as_items("choice", value, as_text, expected, at_least=1) or None


class HasSchema(Protocol):
    """**Protocol:** a model class of pydantic."""

    @classmethod
    def model_json_schema(cls) -> Mapping[str, Any]:
        """Return the JSON schema of the class."""


def _as_schema(
    value: str | bytes | Mapping[str, Any] | type[HasSchema] | None,
) -> str | None:
    """Return a JSON schema as text, which the caller cannot change afterwards."""
    expected = "a JSON schema (dict or text) or a pydantic model class"
    if value is None:
        return None
    make = getattr(value, "model_json_schema", None)
    try:
        if isinstance(value, type) and callable(make):
            value = closed(make())
        if isinstance(value, (str, bytes)):
            value = _json.loads(value)
        if isinstance(value, Mapping):
            return _json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidParameterError(
            f"json must be {expected}: {type(error).__name__}: {error}.",
            parameter="json",
        ) from error
    raise refuse("json", expected, value)


@suggest_names(reasons=UNAVAILABLE_CONSTRAINTS, harmless=_HARMLESS_CONSTRAINTS)
@attrs.frozen(kw_only=True)
class StructuredOutputs:
    """A constraint on the text of a completion: exactly one of the first five fields.

    Names are those of vLLM's ``StructuredOutputsParams``.

    Raises:
        InvalidParameterError: None or several are given, or one is impossible. Errors
            that only the compiler finds are raised when a request is submitted.
        UnknownArgumentError: The keyword does not exist; names the nearest.
    """

    __module__ = "unillm"

    json: str | None = attrs.field(default=None, converter=_as_schema)
    """A JSON schema as dict or text, or a pydantic model class; kept as text. Objects
    of a class take no keys but its fields, as with ``extra="forbid"``, unless the class
    says ``extra="allow"``; a dict means what JSON schema says."""
    regex: str | None = text_field()
    """A regular expression that the whole text matches, without look-around and
    back-references."""
    choice: tuple[str, ...] | None = attrs.field(default=None, converter=_as_choice)
    """Texts, one of which is the whole text."""
    grammar: str | None = text_field()
    """A context-free grammar: in Lark's notation from the rule ``start``, or in GBNF
    from the rule ``root``."""
    json_object: bool = bool_field(False)
    """Whether the text is a JSON object of any kind."""

    disable_any_whitespace: bool = bool_field(False)
    """JSON without spaces and line breaks between its parts."""
    disable_additional_properties: bool = bool_field(False)
    """Objects have no other properties than a schema names, where it says nothing."""
    whitespace_pattern: str | None = text_field()
    """A regular expression for the text on each side of a comma or colon in JSON; there
    is none inside of the brackets."""

    def __attrs_post_init__(self) -> None:
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise InvalidParameterError(
                f"structured_outputs needs exactly one of {', '.join(_KINDS)}; got "
                f"{' and '.join(given) or 'none'}.",
                parameter="structured_outputs",
                value=given,
            )

    @property
    def kind(self) -> str:
        """Name of the field that is given."""
        return next(kind for kind in _KINDS if getattr(self, kind))

    @property
    def source(self) -> str:
        """The constraint as one text, for the grammar compiler."""
        choices = "\n".join(self.choice or ())
        text = self.json or self.regex or self.grammar or choices
        return text or '{"type": "object"}'


StructuredOutputsParams = StructuredOutputs
"""The same under vLLM's name."""

_KINDS = ("json", "regex", "choice", "grammar", "json_object")
