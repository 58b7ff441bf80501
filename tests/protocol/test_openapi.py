# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import jsonschema
import msgspec
from starlette.routing import Route

from unillm.protocol import bodies, openapi
from unillm.protocol.models import Models
from unillm.server.app import make_app
from unillm.server.service import Service
from unillm.server.serving import Serving
from unillm.server.settings import ServerSettings


def test_the_document_has_the_routes_of_the_server():
    service = Service(
        settings=ServerSettings(),
        serving=Serving(lambda: None, restart=False),
        models=Models(["m"], "m", {}, 0),
    )
    routes = {
        (method, route.path.replace(":path", ""))
        for route in make_app(service).routes
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }

    assert {(each.method, each.path) for each in openapi.ENDPOINTS} == routes


def test_every_reference_has_a_schema():
    document = openapi.document("1.0")
    text = msgspec.json.encode(document).decode()
    names = document["components"]["schemas"]

    for reference in text.split('"$ref":"#/components/schemas/')[1:]:
        assert reference.partition('"')[0] in names


def test_each_schema_is_one():
    for schema in openapi.document("1.0")["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_each_field_of_a_body_is_in_the_document():
    schemas = openapi.document("1.0")["components"]["schemas"]

    for kind in (bodies.ChatBody, bodies.CompletionBody):
        assert set(schemas[kind.__name__]["properties"]) == set(kind.__struct_fields__)


def test_the_page_shows_every_endpoint():
    page = openapi.page("1.0")

    for each in openapi.ENDPOINTS:
        assert f"<code>{each.method} {each.path}</code>" in page
