# SPDX-License-Identifier: Apache-2.0

"""The settings of an adopted contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...engines.backend import Backend
    from ...engines.base import Engine


class ContractSettings:
    """The settings of an adopted contract; only `backend` is required."""

    backend: str | Backend
    """Name of an installed backend, or a backend to register during the tests."""

    waivers: Mapping[str, str] = MappingProxyType({})
    """Numbers of clauses that fail under these options alone, each with the reason.

    `Backend.waivers` has those that always fail. A waived clause that passes is an
    error, so that the list shrinks, but for `unillm.backend.Sometimes`."""

    model: str = "unillm/tiny"
    """The bundled model, or the directory of the same model in another form."""

    options: Mapping[str, Any] = MappingProxyType({})
    """Options of the `Generator`, added to or instead of `subject.STANDARD_OPTIONS`."""

    patience_s: float = 60.0
    """Limit of one call of the engine, in seconds."""

    logprob_tolerance: float = 1e-3
    """Rounding error that a log-probability may have."""

    keep_engine: bool = True
    """Whether one engine serves many clauses, because loading takes long."""

    kill_engine: Callable[[Engine], None] | None = None
    """Makes a running engine die as a crash does; a static method."""
