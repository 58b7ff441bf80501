# SPDX-License-Identifier: Apache-2.0

"""Arguments of a job, checked before a file is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from ..errors import ConfigError, nearest_name
from ..protocol.bodies import CompletionBody
from ..protocol.endpoints import AnswerSettings, Chats, Completions
from .body import FIELDS, PROMPTS, Bodies
from .template import Template


def _option(expected: str, accepts: Callable[[Any], bool], **options: Any) -> Any:
    """A field that refuses values for which *accepts* is false."""

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not accepts(value):
            raise ConfigError(f"{field.name} must be {expected}, got {value!r}.")

    return attrs.field(validator=check, **options)


def _is_path(value: Any) -> bool:
    if not isinstance(value, (str, os.PathLike)):
        return False
    text = os.fspath(value)
    return isinstance(text, str) and bool(text) and _is_name(text)


def _is_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _optional(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _is_json_object(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(map(_is_text, value)):
        return False
    try:
        return isinstance(msgspec.json.decode(msgspec.json.encode(dict(value))), dict)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False


def _are_paths(value: Any) -> bool:
    if _is_path(value):
        return True
    return (
        isinstance(value, (list, tuple)) and bool(value) and all(map(_is_path, value))
    )


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple)) and bool(value) and all(map(_is_text, value))
    )


def _flag() -> Any:
    return _option("True or False", lambda v: isinstance(v, bool), default=False)


@attrs.frozen(kw_only=True)
class Arguments:
    """The arguments of `run_batch` that describe its lines.

    Raises:
        ConfigError: A value has the wrong type, or two contradict each other.
        InvalidParameterError: A field of *params* has an impossible value.
    """

    inputs: Any = _option(  # noqa: RUF009 - a field
        "a path or a list of paths", _are_paths
    )
    output: Any = _option("a path", _is_path)  # noqa: RUF009 - a field
    params: Mapping[str, Any] | None = _option(
        "a dict of fields of the body, or None",
        _optional(_is_json_object),
        default=None,
    )
    output_schema: Mapping[str, Any] | None = _option(
        "a JSON schema as a dict, or None", _optional(_is_json_object), default=None
    )
    prompt_template: str | None = _option(
        "the text of a template, or None", _optional(_is_text), default=None
    )
    chat: bool = _flag()
    system: str | None = _option("a text or None", _optional(_is_text), default=None)
    columns: Sequence[str] | None = _option(
        "a list of names, or None", _optional(_are_names), default=None
    )
    any_order: bool = _flag()
    deduplicate: bool = _flag()
    restart: bool = _flag()
    retry_failed: bool = _flag()
    use_tqdm: bool = _flag()

    def __attrs_post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise ConfigError("system is for chats. Pass chat=True.")
        if self.params:
            _check_params(self.params)
        if self.output_schema is not None:
            body = {"prompt": "", "structured_outputs": {"json": self.output_schema}}
            _check_body(Completions, body)

    @property
    def patterns(self) -> list[str]:
        """Paths and patterns of the input."""
        several = isinstance(self.inputs, (list, tuple))
        given = self.inputs if several else [self.inputs]
        return [os.fspath(each) for each in given]

    @property
    def path(self) -> Path:
        """The output."""
        return Path(self.output)

    def bodies(self) -> Bodies:
        """Return the maker of bodies.

        Raises:
            ConfigError: The prompt template is not a template.
        """
        text = self.prompt_template
        return Bodies(
            fields=dict(self.params or {}),
            schema=self.output_schema,
            template=None if text is None else Template(text),
            chat=self.chat,
            system=self.system,
        )


def _check_params(params: Mapping[str, Any]) -> None:
    names = FIELDS - {*PROMPTS}
    for name in params:
        if name not in names:
            raise ConfigError(
                f"params has {name!r}, which is not a field of the body."
                f"{nearest_name(name, names)}"
            )
    if params.keys() <= _OF_COMPLETIONS:
        _check_body(Completions, {"max_tokens": None, **params, "prompt": ""})
    else:
        _check_body(Chats, {**params, "messages": []})


_OF_COMPLETIONS = frozenset(CompletionBody.__struct_fields__)


def _check_body(kind: type[Any], body: Mapping[str, Any]) -> None:
    """Check the values of fields that all lines get."""
    from .. import SamplingParams

    endpoint = kind(msgspec.json.encode(body), AnswerSettings())
    endpoint.params(SamplingParams())
