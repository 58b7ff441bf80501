# SPDX-License-Identifier: Apache-2.0

"""`Page`: the page at ``/`` to try the model, and the data that it draws.

The files beside this module are served as they are. The page asks only its own server,
and its policy (CSP) allows no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..responses import json_response

if TYPE_CHECKING:
    from ..service import Service

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)

_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        ),
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
)


class Page:
    """The endpoints of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, _: Request) -> Response:
        """Serve ``GET /``."""
        return Response(
            _content("index.html"), media_type="text/html", headers=dict(_HEADERS)
        )

    async def file(self, request: Request) -> Response:
        """Serve ``GET /page/{name}``."""
        name = request.path_params["name"]
        kind = _KINDS.get(name[name.rfind(".") :])
        if kind is None or name not in _NAMES:
            raise HTTPException(404)
        return Response(_content(name), headers={**_HEADERS, "content-type": kind})

    async def activity(self, _: Request) -> Response:
        """Serve ``GET /activity``: the last requests, their slots and the queue."""
        generator = self._service.serving.present()
        stats: dict[str, Any] = {}
        num_slots = 0
        if generator is not None:
            num_slots = generator.limits.max_num_seqs
            if self._service.serving.alive():
                stats = generator.stats()
        return json_response(
            self._service.activity.report(num_slots=num_slots, stats=stats)
        )


def _content(name: str) -> bytes:
    return files(__package__).joinpath(name).read_bytes()


_NAMES = frozenset(each.name for each in files(__package__).iterdir())
