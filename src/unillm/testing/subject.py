# SPDX-License-Identifier: Apache-2.0

"""The backend under test: one engine at a time, kept while clauses pass."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..engines.base import Support
from ..errors import ConfigError
from ..generator import Generator
from ..process.registry import BackendRegistry
from ..resolve import configure
from ..scheduling.runs import RunScheduler
from .backends import plugged
from .driving import DrivenEngine

if TYPE_CHECKING:
    from ..engines.base import Capabilities, Engine

STANDARD_OPTIONS: Mapping[str, Any] = {
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "max_logprobs": -1,
}
"""Small limits, so that requests wait, prompts are computed in parts and slots are
reused; and the dtype of the expected log-probabilities."""


class StepClock:
    """A clock that advances by a second each time it is read.

    `RunScheduler` reads it once a step, so each step takes a second, on any machine:
    whether a stop pays depends on the requests alone.
    """

    def __init__(self) -> None:
        self._reads = itertools.count()

    def __call__(self) -> float:
        """Return the number of earlier reads."""
        return float(next(self._reads))


class Subject:
    """Creates engines and generators of one backend, one at a time.

    Args:
        settings: Settings of an adopted contract, or of a random run.
    """

    def __init__(self, settings: Any) -> None:
        self._plugged = contextlib.ExitStack()
        name = settings.backend
        if not isinstance(name, str):
            name = self._plugged.enter_context(plugged(name)).name
        self.backend = BackendRegistry(settings.options.get("python")).load(name)
        self.waivers = {**self.backend.waivers, **settings.waivers}
        self.model = settings.model
        self.options = {**STANDARD_OPTIONS, **settings.options}
        self.patience_s = settings.patience_s
        self._keep = settings.keep_engine
        self._driven: DrivenEngine | None = None
        self._generator: Generator | None = None
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        """The backend's capabilities, refined by its engine."""
        if self._capabilities is None:
            own = self.engine().capabilities
            self._capabilities = self.backend.capabilities.refined(own)
        return self._capabilities

    def declares(self, name: str) -> bool:
        """Return whether the backend honours a field, a feature or an aspect."""
        return self.capabilities.of(name).support is not Support.UNSUPPORTED

    def create_engine(self) -> Engine:
        """Close the current engine and return a new one."""
        self.close()
        config = configure(self.model, self.backend.name, **self.options)
        engine = self.backend.create_engine(config)
        if isinstance(engine, RunScheduler):
            engine.clock = StepClock()
        return engine

    def takes(self, **options: Any) -> bool:
        """Return whether an engine can be created with further options.

        The engine is kept, for who sets these options next.
        """
        before = self.options
        self.options = {**before, **options}
        try:
            self.engine()
        except ConfigError:
            return False
        finally:
            self.options = before
        return True

    def engine(self) -> DrivenEngine:
        """Return an idle engine to drive."""
        if self._driven is None:
            self._driven = DrivenEngine(self.create_engine(), self.patience_s)
        return self._driven

    def generator(self) -> Generator:
        """Return an idle generator."""
        if self._generator is None:
            self.close()
            self._generator = self.create_generator()
        return self._generator

    def create_generator(self, **options: Any) -> Generator:
        """Close the current engine or generator and return a new generator."""
        self.close()
        options = {**self.options, **options}
        generator = Generator(self.model, backend=self.backend.name, **options)
        # A request that hangs fails its clause.
        generator._requests.timeout_s = self.patience_s  # noqa: SLF001
        return generator

    def after_clause(self, *, failed: bool) -> None:
        """Keep the engine for the next clause if it is idle and the clause passed."""
        idle = self._driven is None or self._driven.restart()
        if failed or not idle or not self._keep:
            self.close()

    def close(self) -> None:
        """Close the current engine or generator."""
        driven, self._driven = self._driven, None
        generator, self._generator = self._generator, None
        if driven is not None:
            driven.dispose()
        if generator is not None:
            generator.close()

    def end(self) -> None:
        """Close everything and unregister the backend."""
        self.close()
        self._plugged.close()
