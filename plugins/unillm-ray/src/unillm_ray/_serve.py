# SPDX-License-Identifier: Apache-2.0

"""`deployment`: the server of unillm as a deployment of Ray Serve."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ray import serve
from starlette.applications import Starlette

from unillm import Generator
from unillm.errors import ConfigError
from unillm.server.hosted import HostedServer
from unillm.server.settings import ServerSettings

from ._placement import Resources, num_seqs_of, placement_of


def deployment(
    model: str,
    *,
    backend: str = "auto",
    autoscaling: Mapping[str, Any] | None = None,
    num_replicas: int = 1,
    resources: Resources | None = None,
    settings: ServerSettings | None = None,
    **options: Any,
) -> serve.Deployment:
    """Return the server of ``unillm serve`` as a deployment of Ray Serve.

    ``serve.run(deployment(model).bind())`` starts it; ``.options(…)`` sets what else
    Ray has. A replica is ready when its model is loaded, is replaced when its engine
    has died, and finishes its requests before it leaves.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``; each machine finds
            it under this name.
        backend: Name of a backend, which each machine has installed.
        autoscaling: Fields of Ray's ``AutoscalingConfig``, such as ``min_replicas`` and
            ``max_replicas``. Ray compares the requests that wait and run with
            ``target_ongoing_requests``, which is the engine's rows by default.
        num_replicas: Replicas, each with an engine, without *autoscaling*.
        resources: Of one replica, by Ray's names, such as ``{"CPU": 2, "GPU": 1}``; one
            CPU by default. A list has one entry for each process of an engine that
            spans machines, and becomes a placement group.
        settings: Options of the server. Ray has the sockets, so those for address and
            TLS have no effect.
        options: Further arguments of `unillm.Generator`.

    Raises:
        ConfigError: *settings* have a second engine or a restart of the engine, or
            *resources* are empty.
    """
    settings = settings or ServerSettings()
    _check(settings)
    num_seqs = num_seqs_of(options)
    create = functools.partial(Generator, model, backend=backend, **options)
    hosted = functools.partial(HostedServer, create, model, settings)
    scaled: dict[str, Any] = {"num_replicas": num_replicas}
    if autoscaling is not None:
        config = {"target_ongoing_requests": num_seqs, **autoscaling}
        scaled = {"autoscaling_config": config}
    placement = placement_of(resources)
    if placement.bundles:
        scaled["placement_group_bundles"] = list(placement.bundles)
    return serve.deployment(
        _replica(hosted),
        name="unillm",
        # Beyond the engine's rows, so that a row that is free has a request waiting.
        max_ongoing_requests=2 * num_seqs,
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        ray_actor_options=dict(placement.resources),
        logging_config={
            "log_level": settings.log_level.upper(),
            "enable_access_log": settings.access_log,
        },
        **scaled,
    )


def _replica(hosted: functools.partial[HostedServer]) -> type:
    """Return the class of a replica, which Ray sends to its process."""

    @serve.ingress()
    class Replica:
        def __init__(self) -> None:
            self._hosted = hosted()

        def __serve_build_asgi_app__(self) -> Starlette:
            return self._hosted.app

        def check_health(self) -> None:
            self._hosted.check_health()

    return Replica


def _check(settings: ServerSettings) -> None:
    if settings.shadow is not None:
        raise ConfigError(
            "A second engine has no resources of its own on a Ray cluster. Leave "
            "`shadow` out, or shadow a server that runs without Ray."
        )
    if settings.restart_engine:
        raise ConfigError(
            "Ray replaces a replica whose engine has died. Leave `restart_engine` out."
        )
