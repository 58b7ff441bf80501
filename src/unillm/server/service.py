# SPDX-License-Identifier: Apache-2.0

"""`Service`: the objects that all endpoints of one server share."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import attrs
import msgspec
from starlette.requests import Request

from ..metrics.served import Served
from ..protocol.models import Models
from ..protocol.reading import Read, read
from .activity import Activity
from .responses import read_body
from .serving import Serving
from .shadow import Shadow

if TYPE_CHECKING:
    from .. import Generator, SamplingParams
    from .settings import ServerSettings

T = TypeVar("T", bound=msgspec.Struct)

IGNORED = "x-unillm-ignored"
"""Header that names the fields which a request had and which changed nothing."""


@attrs.frozen(kw_only=True)
class Service:
    """One server."""

    settings: ServerSettings
    serving: Serving
    models: Models
    activity: Activity = attrs.field(factory=Activity)
    """The last requests, for the page."""
    shadow: Shadow | None = None
    """The second engine."""
    served: defaultdict[str, Served] = attrs.field(factory=lambda: defaultdict(Served))
    """Counters by name of the model; only names of `models` are keys."""

    async def read(self, request: Request, kind: type[T]) -> Read[T]:
        """Return the body of a request.

        Raises:
            ApiError: The body is too long, too slow or of another content type.
            RequestError: It is not what *kind* says.
        """
        return read(await self.raw(request), kind)

    async def raw(self, request: Request) -> bytes:
        """Return the bytes of a request's body.

        Raises:
            ApiError: The body is too long, too slow or of another content type.
        """
        return await read_body(
            request,
            limit=self.settings.max_body_bytes,
            timeout_s=self.settings.body_timeout_s,
        )

    def default_params(self) -> SamplingParams:
        """Return the params of a request that sets none."""
        defaults = self.serving.generator().get_default_sampling_params()
        overrides = self.settings.override_generation_config
        return attrs.evolve(defaults, **overrides)


def make_service(
    create: Callable[[], Generator], model: str, settings: ServerSettings
) -> Service:
    """Return a server that has not loaded its generator.

    Args:
        create: Makes the generator.
        model: Its name as the user wrote it.
        settings: Options of the server.

    Raises:
        ConfigError: An adapter has the name of the model.
    """
    return Service(
        settings=settings,
        serving=Serving(create, restart=settings.restart_engine),
        models=Models(
            settings.served_model_name or (model,),
            model,
            settings.lora_modules,
            int(time.time()),
        ),
        shadow=None if settings.shadow is None else Shadow(model, settings.shadow),
    )
