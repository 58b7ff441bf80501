# SPDX-License-Identifier: Apache-2.0

"""`make_app`: the ASGI application of one server."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Lifespan

from ..errors import UnillmError
from ..protocol.errors import ApiError, ErrorReply, error_reply
from .about import About
from .access import REQUEST_ID, ApiKeys, RequestIds
from .generation import Generation
from .page import Page
from .responses import error_response
from .service import IGNORED, Service
from .texts import Texts


def make_app(
    service: Service, *, lifespan: Lifespan[Starlette] | None = None
) -> Starlette:
    """Return the application.

    Args:
        service: The server; its generator may come later.
        lifespan: Runs with the ASGI server, for one that sends the events of it.
    """
    about, generation, texts = About(service), Generation(service), Texts(service)
    page = Page(service)
    settings = service.settings

    async def refuse(request: Request, error: Exception) -> Response:
        reply = error_reply(error)
        if request.method == "POST":
            service.served[service.models.first].refused[str(reply.status)] += 1
        return error_response(reply)

    middleware = [Middleware(RequestIds)]
    if settings.allowed_origins:
        middleware.append(
            # Before the keys: a browser asks for permission without one.
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=[REQUEST_ID, IGNORED],
            )
        )
    if settings.api_keys:
        middleware.append(Middleware(ApiKeys, keys=settings.api_keys))
    return Starlette(
        routes=[
            Route("/", page.index),
            Route("/page/{name}", page.file),
            Route("/activity", page.activity),
            Route("/shadow", about.shadow),
            Route("/health", about.health),
            Route("/version", about.version),
            Route("/metrics", about.metrics),
            Route("/openapi.json", about.openapi),
            Route("/docs", about.docs),
            Route("/v1/models", about.models),
            Route("/v1/models/{name:path}", about.model),
            Route("/v1/completions", generation.completions, methods=["POST"]),
            Route("/v1/chat/completions", generation.chat, methods=["POST"]),
            Route("/v1/responses", generation.responses, methods=["POST"]),
            Route("/tokenize", texts.tokenize, methods=["POST"]),
            Route("/detokenize", texts.detokenize, methods=["POST"]),
            Route("/tokenizer_info", texts.tokenizer_info),
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: refuse,
            UnillmError: refuse,
            HTTPException: _refuse_by_status,
            ClientDisconnect: _left,
            Exception: refuse,
        },
        lifespan=lifespan,
    )


async def _refuse_by_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"There is no endpoint {request.url.path}.",
        405: f"{request.url.path} does not take {request.method}.",
    }
    message = messages.get(error.status_code, error.detail)
    return error_response(
        ErrorReply(error.status_code, message, headers=error.headers or {})
    )


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # the client has closed its connection
