# SPDX-License-Identifier: Apache-2.0

"""`serve_until_signal`: what ``unillm serve --ray`` does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve

from unillm.server.settings import ServerSettings

from ._cluster import connect
from ._placement import Resources
from ._serve import deployment

NAME = "unillm"
"""Name of the application in Ray Serve."""


def serve_until_signal(
    model: str,
    settings: ServerSettings,
    *,
    address: str,
    replicas: tuple[int, int],
    resources: Resources | None,
    options: Mapping[str, Any],
) -> None:
    """Serve a model on a Ray cluster until SIGTERM or SIGINT.

    Args:
        model: Its name as the user wrote it.
        settings: Options of the server. Where the cluster serves already, its own
            address stays.
        address: Of the cluster; "auto" for that of this machine, "local" for a
            new one.
        replicas: The least and the most.
        resources: Of one replica.
        options: Arguments of `Generator`.
    """
    least, most = replicas
    scaling: dict[str, Any] = (
        {"num_replicas": least}
        if least == most
        else {"autoscaling": {"min_replicas": least, "max_replicas": most}}
    )
    served = deployment(
        model, settings=settings, resources=resources, **scaling, **options
    )
    connect(address)
    # Ray's own handler ends the process before the replicas have drained.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve.start(http_options=_http(settings))
        with contextlib.suppress(KeyboardInterrupt):
            serve.run(served.bind(), name=NAME, route_prefix="/")
            print(f"Ray Serve running on {_url(settings)}", flush=True)  # noqa: T201
            threading.Event().wait()
        serve.delete(NAME)  # waits until the replicas have finished
    finally:
        ray.shutdown()


def _http(settings: ServerSettings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "root_path": settings.root_path,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_ca_certs": settings.ssl_ca_certs,
    }


def _url(settings: ServerSettings) -> str:
    scheme = "https" if settings.ssl_certfile else "http"
    return f"{scheme}://{settings.host}:{settings.port}{settings.root_path}"
