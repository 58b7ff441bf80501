# SPDX-License-Identifier: Apache-2.0

"""`serve`: runs a server until a signal ends it.

SIGTERM or SIGINT stops new connections; requests under way have `shutdown_timeout`
seconds, after which they fail in form. A second SIGINT ends them at once.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop
from typing_extensions import override

from .app import make_app
from .service import Service, make_service
from .settings import ServerSettings

if TYPE_CHECKING:
    from .. import Generator

log = logging.getLogger("unillm.server")

GRACE_S = 10
"""Seconds after `shutdown_timeout` for the last bytes to reach the clients."""


class _Server(uvicorn.Server):
    """A server that passes on the first signal, and does not raise it again."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[bool], None]) -> None:
        super().__init__(config)
        self._stop = stop

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stop(self.should_exit)
        self.should_exit = True


def serve(
    create: Callable[[], Generator], model: str, settings: ServerSettings
) -> None:
    """Serve until a signal.

    Args:
        create: Makes the generator.
        model: Its name as the user wrote it.
        settings: Options of the server.

    Raises:
        UnillmError: The generator could not be made.
        OSError: The address cannot be listened on.
    """
    uvloop.run(_serve(create, model, settings))


async def _serve(
    create: Callable[[], Generator], model: str, settings: ServerSettings
) -> None:
    loop = asyncio.get_running_loop()
    service = make_service(create, model, settings)
    serving = service.serving

    def stop(again: bool) -> None:
        serving.stop()
        seconds = 0.0 if again else settings.shutdown_timeout
        loop.call_soon_threadsafe(loop.call_later, seconds, close)

    def close() -> None:
        loop.run_in_executor(None, serving.close)

    server = _Server(_uvicorn_config(service), stop)
    running = asyncio.create_task(serving.run())

    def failed(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            server.should_exit = True

    running.add_done_callback(failed)
    try:
        if service.shadow is not None:
            service.shadow.start()
        await server.serve()
    finally:
        running.cancel()
        await asyncio.to_thread(serving.close)
        if service.shadow is not None:
            await asyncio.to_thread(service.shadow.close)
    if running.done() and not running.cancelled():
        running.result()  # raises why the generator could not be made


def _log_config(level: str) -> dict[str, Any]:
    """Return uvicorn's configuration of logs, with that of unillm beside it."""
    config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    own = {"handlers": ["default"], "level": level.upper(), "propagate": False}
    config["loggers"]["unillm"] = own
    return config


def _uvicorn_config(service: Service) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        make_app(service),
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        root_path=settings.root_path,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        access_log=settings.access_log,
        log_level=settings.log_level,
        log_config=_log_config(settings.log_level),
        timeout_graceful_shutdown=int(settings.shutdown_timeout) + GRACE_S,
        lifespan="off",
        server_header=False,
    )
