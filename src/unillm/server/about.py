# SPDX-License-Identifier: Apache-2.0

"""Endpoints about the server: health, version and models."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import unillm

from ..errors import GeneratorClosedError
from ..metrics.prometheus import Snapshot, render
from ..protocol import openapi
from ..protocol.errors import unavailable
from ..protocol.listing import ModelCard, ModelList, Version
from .responses import json_response
from .service import Service
from .serving import State


class About:
    """The endpoints of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """Serve ``GET /health``: 200 while requests are served, and else 503."""
        serving = self._service.serving
        if serving.alive():
            return Response(status_code=200)
        state = State.DEAD if serving.state is State.READY else serving.state
        raise unavailable(
            f"The server cannot generate: {state.value}.", code=state.name.lower()
        )

    async def version(self, _: Request) -> Response:
        """Serve ``GET /version``."""
        return json_response(Version(version=unillm.__version__))

    async def metrics(self, request: Request) -> Response:
        """Serve ``GET /metrics``, for Prometheus."""
        serving = self._service.serving
        generator = serving.present()
        stats: Mapping[str, Any] = {}
        shadow = self._service.shadow
        with contextlib.suppress(GeneratorClosedError):
            stats = generator.stats() if generator is not None else {}
        snapshot = Snapshot(
            model=self._service.models.first,
            served=dict(self._service.served),
            stats=stats,
            engine_up=serving.alive(),
            shadow=None if shadow is None else shadow.counts(),
            restarts=serving.restarts,
            info={
                "version": unillm.__version__,
                "backend": "" if generator is None else generator.backend,
            },
        )
        text, kind = render(snapshot, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    async def openapi(self, _: Request) -> Response:
        """Serve ``GET /openapi.json``."""
        return json_response(openapi.document(unillm.__version__))

    async def docs(self, _: Request) -> Response:
        """Serve ``GET /docs``: the same as a page."""
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(
            openapi.page(unillm.__version__),
            headers={"content-security-policy": policy},
        )

    async def shadow(self, _: Request) -> Response:
        """Serve ``GET /shadow``: how often the second engine agreed, and where not."""
        shadow = self._service.shadow
        if shadow is None:
            raise HTTPException(404)
        return json_response(shadow.report())

    async def models(self, _: Request) -> Response:
        """Serve ``GET /v1/models``."""
        return json_response(ModelList(data=self._cards()))

    async def model(self, request: Request) -> Response:
        """Serve ``GET /v1/models/{name}``."""
        name = request.path_params["name"]
        self._service.models.find(name)
        return json_response(next(card for card in self._cards() if card.id == name))

    def _cards(self) -> list[ModelCard]:
        generator = self._service.serving.present()
        if generator is None:
            return self._service.models.cards()
        return self._service.models.cards(generator.limits.max_model_len)
