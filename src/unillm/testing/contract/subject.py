# SPDX-License-Identifier: Apache-2.0

"""The backend under test: one engine at a time, kept while it can be trusted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from ...generator import Generator
from ...plugins import PluginRegistry
from ...resolve import configure
from ..backends import plugged
from .driving import DrivenEngine

if TYPE_CHECKING:
    from ...engines.backend import Backend
    from ...engines.base import Capabilities, Engine

STANDARD_OPTIONS: Mapping[str, Any] = {
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "max_logprobs": -1,
}
"""Small numbers, so that requests wait, prompts are computed in parts and rows change
their owners; and the dtype in which the expected log-probabilities were computed."""


class ImpatientGenerator(Generator):
    """Gives every request a deadline: a clause must fail where nothing ever ends.

    Args:
        model: As `Generator` takes it.
        patience_s: Seconds that a request has, if it is given none.
        options: As `Generator` takes them.
    """

    def __init__(self, model: str, *, patience_s: float, **options: Any) -> None:
        self._patience_s = patience_s
        super().__init__(model, **options)

    @override
    def _make_handle(self, *args: Any, timeout_s: float | None, **given: Any) -> Any:
        return super()._make_handle(
            *args, timeout_s=timeout_s or self._patience_s, **given
        )


class Subject:
    """Makes engines and generators of one backend, never two of them at a time.

    Args:
        backend: Its name; or one that is not installed, which is plugged in.
        model: Of every engine.
        options: Of every engine, as a `Generator` takes them.
        patience_s: How long one call of an engine may take.
        keep: Whether an engine serves several clauses.
        waivers: Clauses that do not hold, besides those that the backend waives.
    """

    def __init__(
        self,
        backend: str | Backend,
        *,
        model: str,
        options: Mapping[str, Any],
        patience_s: float,
        keep: bool,
        waivers: Mapping[str, str],
    ) -> None:
        self._plugged = contextlib.ExitStack()
        if not isinstance(backend, str):
            backend = self._plugged.enter_context(plugged(backend)).name
        self.backend = PluginRegistry().load(backend)
        self.waivers = {**self.backend.waivers, **waivers}
        self.model = model
        self.options = {**STANDARD_OPTIONS, **options}
        self.patience_s = patience_s
        self._keep = keep
        self._driven: DrivenEngine | None = None
        self._generator: Generator | None = None
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        """The backend's, refined by those of its engine."""
        if self._capabilities is None:
            own = self.engine().capabilities
            self._capabilities = self.backend.capabilities.refined(own)
        return self._capabilities

    def create_engine(self) -> Engine:
        """Return a new engine; the other one is closed."""
        self.close()
        config = configure(self.model, self.backend.name, **self.options)
        return self.backend.create_engine(config)

    def engine(self) -> DrivenEngine:
        """Return an engine to drive, with nothing to do."""
        if self._driven is None:
            self._driven = DrivenEngine(self.create_engine(), self.patience_s)
        return self._driven

    def generator(self) -> Generator:
        """Return a generator, with nothing to do."""
        if self._generator is None:
            self.close()
            self._generator = self.create_generator()
        return self._generator

    def create_generator(self, **options: Any) -> Generator:
        """Return a new generator; what else there was is closed."""
        self.close()
        return ImpatientGenerator(
            self.model,
            patience_s=self.patience_s,
            backend=self.backend.name,
            **{**self.options, **options},
        )

    def after_clause(self, *, failed: bool) -> None:
        """Keep for the next clause what can be trusted."""
        idle = self._driven is None or self._driven.restart()
        if failed or not idle or not self._keep:
            self.close()

    def close(self) -> None:
        """Close what there is."""
        driven, self._driven = self._driven, None
        generator, self._generator = self._generator, None
        if driven is not None:
            driven.dispose()
        if generator is not None:
            generator.close()

    def end(self) -> None:
        """Close what there is; the backend is not used any more."""
        self.close()
        self._plugged.close()
