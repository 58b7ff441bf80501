# SPDX-License-Identifier: Apache-2.0

"""The OpenAPI document of the server, made from the types of its bodies."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import msgspec

from .bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from .chat import ChatCompletion
from .completions import Completion
from .errors import ErrorBody
from .listing import Detokenized, ModelCard, ModelList, Tokenized, Version
from .responses import Response
from .responses_body import ResponsesBody

_REF = "#/components/schemas/{name}"
_OBJECT = {"type": "object"}


@attrs.frozen
class Endpoint:
    """One path of the server."""

    method: str
    path: str
    summary: str
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | None = None
    """`None` for an answer that is not one of the types."""
    streams: bool = False


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/chat/completions",
        "Answer a conversation.",
        ChatBody,
        ChatCompletion,
        streams=True,
    ),
    Endpoint(
        "POST",
        "/v1/completions",
        "Continue prompts.",
        CompletionBody,
        Completion,
        streams=True,
    ),
    Endpoint(
        "POST",
        "/v1/responses",
        "Answer an input; nothing is kept.",
        ResponsesBody,
        Response,
        streams=True,
    ),
    Endpoint("GET", "/v1/models", "List the models.", answer=ModelList),
    Endpoint("GET", "/v1/models/{name}", "Describe a model.", answer=ModelCard),
    Endpoint("POST", "/tokenize", "Turn text into token ids.", TokenizeBody, Tokenized),
    Endpoint(
        "POST", "/detokenize", "Turn token ids into text.", DetokenizeBody, Detokenized
    ),
    Endpoint("GET", "/tokenizer_info", "Describe the tokenizer."),
    Endpoint("GET", "/health", "Say whether requests are served; needs no key."),
    Endpoint("GET", "/version", "Name the version.", answer=Version),
    Endpoint("GET", "/metrics", "Count requests, for Prometheus."),
    Endpoint("GET", "/shadow", "Say how often the shadow engine agreed."),
    Endpoint("GET", "/", "Return a page to try the model."),
    Endpoint("GET", "/page/{name}", "Return a file of that page."),
    Endpoint("GET", "/activity", "Say what the engine does, for that page."),
    Endpoint("GET", "/openapi.json", "Return this document."),
    Endpoint("GET", "/docs", "Return this document as a page."),
)
"""All paths; a test compares them with the routes."""


def document(version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        version: Version of unillm.
    """
    types = [
        kind
        for endpoint in ENDPOINTS
        for kind in (endpoint.body, endpoint.answer)
        if kind is not None
    ]
    schemas, components = msgspec.json.schema_components(
        [*types, ErrorBody], ref_template=_REF
    )
    named = dict(zip([*types, ErrorBody], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in ENDPOINTS:
        operation = _operation(each, named)
        paths.setdefault(each.path, {})[each.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "unillm", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(endpoint: Endpoint, named: Mapping[Any, Any]) -> dict[str, Any]:
    schema = named.get(endpoint.answer, _OBJECT)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if endpoint.answer is None:
        content = {"*/*": {}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": named[ErrorBody]}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {"description": "An error.", "content": error},
        },
    }
    if endpoint.body is not None:
        body = {"application/json": {"schema": named[endpoint.body]}}
        operation["requestBody"] = {"required": True, "content": body}
    if "{name}" in endpoint.path:
        operation["parameters"] = [
            {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": {"type": "string"},
            }
        ]
    return operation


def page(version: str) -> str:
    """Return the document as HTML, without scripts."""
    return "".join(_lines(document(version)))


def _lines(doc: Mapping[str, Any]) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield "<title>unillm API</title>"
    yield '<meta name="viewport" content="width=device-width">'
    yield "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;"
    yield "margin:2rem auto;max-width:60rem;"
    yield "padding:0 1rem}td,th{padding:.2rem .8rem .2rem 0;"
    yield "text-align:left;vertical-align:top}code{white-space:pre-wrap}</style>"
    yield f"<h1>unillm {html.escape(doc['info']['version'])}</h1>"
    yield '<p>The same as <a href="openapi.json">openapi.json</a>.</p>'
    schemas = doc["components"]["schemas"]
    for path, operations in doc["paths"].items():
        for method, operation in operations.items():
            yield f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
            yield f"<p>{html.escape(operation['summary'])}</p>"
            if body := operation.get("requestBody"):
                ref = body["content"]["application/json"]["schema"]["$ref"]
                yield from _table(schemas[ref.rpartition("/")[2]])
    for name, schema in schemas.items():
        if "properties" in schema and not name.endswith("Body"):
            yield f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3>'
            yield f"<p>{html.escape(schema.get('description', ''))}</p>"
            yield from _table(schema)
    yield "</html>"


def _table(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "<table><tr><th>field<th>type<th></tr>"
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        text = field.get("description", "")
        text += " Required." if name in required else ""
        yield f"<tr><td><code>{html.escape(name)}</code><td>{_type(field)}"
        yield f"<td>{html.escape(text)}</tr>"
    yield "</table>"


def _type(field: Mapping[str, Any]) -> str:
    """Return the type of a field as HTML, with links to other types."""
    if "$ref" in field:
        name = html.escape(field["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if "enum" in field:
        return " or ".join(
            f"<code>{html.escape(repr(v))}</code>" for v in field["enum"]
        )
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {})) or 'anything'}"
    return html.escape(str(field.get("type", "anything")))
