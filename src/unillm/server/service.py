# SPDX-License-Identifier: Apache-2.0

"""`Service`: the objects that all endpoints of one server share."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import attrs
import msgspec
from starlette.requests import Request

from ..metrics.served import Served
from ..protocol.reading import Read, read
from .activity import Activity
from .responses import read_body

if TYPE_CHECKING:
    from .. import SamplingParams
    from ..protocol.models import Models
    from .serving import Serving
    from .settings import ServerSettings
    from .shadow import Shadow

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
