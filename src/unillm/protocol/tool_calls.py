# SPDX-License-Identifier: Apache-2.0

"""Tools of a chat: which calls a model may make, and readers that find them in text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import InvalidParameterError, UnsupportedParameterError
from ..structured_outputs import StructuredOutputs
from .bodies import ChatBody, NamedTool, Tool
from .call_readers import (
    ArrayReader,
    HermesReader,
    LlamaReader,
    MistralReader,
    NamedReader,
)
from .parts import PartReader, PlainReader

CALL_READERS: Mapping[str, Callable[[ChatBody], PartReader]] = MappingProxyType(
    {
        "hermes": HermesReader,
        "llama3_json": LlamaReader,
        "mistral": MistralReader,
    }
)
"""Makes a reader of calls for one answer, by the name of ``--tool-call-parser``, which
is vLLM's."""


def check_tools(body: ChatBody, *, parser: str | None) -> None:
    """Refuse calls that nothing would find in the answer.

    Args:
        body: The request.
        parser: Name of the server's reader of calls; `None` for none.

    Raises:
        UnsupportedParameterError: The model may choose a call and there is no reader.
        InvalidParameterError: ``tool_choice`` demands a tool that there is not.
    """
    choice, names = body.tool_choice, [tool.function.name for tool in body.tools or ()]
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise _impossible(
            f"tool_choice names {choice.function.name!r}, and tools has "
            f"{', '.join(names) or 'none'}. Name one of tools."
        )
    if choice == "required" and not names:
        raise _impossible('tool_choice "required" needs tools. Send at least one.')
    if names and choice in (None, "auto") and parser is None:
        raise UnsupportedParameterError(
            "The server has no parser for tool calls, so it could not return them. "
            "Start it with --tool-call-parser, name a tool in tool_choice, or send "
            'tool_choice: "none".',
            parameter="tools",
            value=None,
        )


def may_call(body: ChatBody) -> bool:
    """Whether the model itself chooses between content and calls."""
    return bool(body.tools) and body.tool_choice in (None, "auto")


def call_reader(body: ChatBody, *, parser: str | None) -> PartReader:
    """Return the reader of one answer's calls; the arguments are `check_tools`'s."""
    if isinstance(body.tool_choice, NamedTool):
        return NamedReader(body, name=body.tool_choice.function.name)
    if body.tool_choice == "required":
        return ArrayReader(body)
    if may_call(body) and parser is not None:
        return CALL_READERS[parser](body)
    return PlainReader()


def forced_call(body: ChatBody) -> StructuredOutputs | None:
    """Return the constraint that makes the model call a tool; `None` for a free choice.

    A named tool's answer is its arguments. With "required" it is an array of objects
    with ``name`` and ``parameters``, as in vLLM.

    Raises:
        InvalidParameterError: The schemas of two tools define a name differently.
    """
    choice, tools = body.tool_choice, body.tools or []
    if isinstance(choice, NamedTool):
        schemas = {tool.function.name: _schema(tool) for tool in tools}
        return _constraint(schemas[choice.function.name])
    if choice != "required":
        return None
    definitions: dict[str, Any] = {}
    calls = [_call_schema(tool, definitions) for tool in tools]
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
    }
    if body.parallel_tool_calls is False:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return _constraint(schema)


def _constraint(schema: dict[str, Any]) -> StructuredOutputs:
    # A weak model may write white space without end where it is allowed.
    return StructuredOutputs(json=schema, disable_any_whitespace=True)


def _schema(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object"}


def _call_schema(tool: Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a call; what its ``$ref`` names goes to *definitions*."""
    parameters = dict(_schema(tool))
    for name, definition in parameters.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise InvalidParameterError(
                f"Two tools define $defs/{name} differently. Rename one of them.",
                parameter="tools",
                value=None,
            )
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [tool.function.name]},
            "parameters": parameters,
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _impossible(message: str) -> InvalidParameterError:
    return InvalidParameterError(message, parameter="tool_choice", value=None)
