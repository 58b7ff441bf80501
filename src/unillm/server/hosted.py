# SPDX-License-Identifier: Apache-2.0

"""`HostedServer`: the application for an ASGI server that another program runs.

That server opens the sockets, drains them, and starts this application anew after a
death; the application has the generator and the endpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from ..errors import EngineDeadError
from .app import make_app
from .service import make_service
from .settings import ServerSettings

if TYPE_CHECKING:
    from .. import Generator


class HostedServer:
    """An application that loads its generator when the ASGI server starts.

    Args:
        create: Makes the generator.
        model: Its name as the user wrote it.
        settings: Options of the server; those of its sockets have no effect.

    Attributes:
        app: The application. The ASGI server must send the events of the lifespan.

    Raises:
        ConfigError: An adapter has the name of the model.
    """

    def __init__(
        self, create: Callable[[], Generator], model: str, settings: ServerSettings
    ) -> None:
        service = make_service(create, model, settings)
        self._serving = service.serving
        self.app = make_app(service, lifespan=self._lifespan)

    def check_health(self) -> None:
        """Raise `EngineDeadError` if no request can be served."""
        if not self._serving.alive():
            raise EngineDeadError("The engine died. Start the server anew.")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._serving.load()
        try:
            yield
        finally:
            await asyncio.to_thread(self._serving.close)
