# SPDX-License-Identifier: Apache-2.0

"""`StructureCompiler`: structured outputs compiled where the engine is.

A thread reads the model's tokenizer at the first of them and compiles, so that no other
request waits for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from ..engines.base import Capabilities, EngineLimits, EngineRequest, Support
from ..errors import (
    RequestError,
    RequestFailedError,
    UnillmError,
    UnsupportedParameterError,
)

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..text.grammar import GrammarCompiler

Compiled = tuple[EngineRequest, "EngineRequest | RequestError"]
"""A request, and the same with its grammar or the reason why it is refused."""


class StructureCompiler:
    """Compiles the structures of requests on a thread of its own.

    Args:
        config: Of the engine.
        limits: Of the engine.
        capabilities: Of the engine, which takes a grammar if it declares structured
            outputs as emulated.
    """

    def __init__(
        self, config: EngineConfig, limits: EngineLimits, capabilities: Capabilities
    ) -> None:
        self._config = config
        self._limits = limits
        support = capabilities.of("structured_outputs").support
        self._keeps = support is Support.EMULATED
        self._compiler: GrammarCompiler | None = None
        self._thread: threading.Thread | None = None
        self._asked: queue.SimpleQueue[EngineRequest] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Compiled] = queue.SimpleQueue()
        self._waiting: dict[str, int] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `compiled` has something."""
        return self._reader

    def is_busy(self) -> bool:
        """Return whether a request waits for its structure."""
        return bool(self._waiting)

    def submit(self, request: EngineRequest) -> None:
        """Compile the structure of a request."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="unillm-process-structures", daemon=True
            )
            self._thread.start()
        self._waiting[request.request_id] = request.arrival
        self._asked.put(request)

    def drop(self, request_ids: Iterable[str]) -> None:
        """Forget requests that are not compiled yet."""
        for request_id in request_ids:
            self._waiting.pop(request_id, None)

    def compiled(self) -> Iterator[Compiled]:
        """Yield what was compiled since the last call."""
        if self._thread is None:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 65536)
        with contextlib.suppress(queue.Empty):
            while True:
                request, found = self._done.get_nowait()
                if self._waiting.get(request.request_id) == request.arrival:
                    del self._waiting[request.request_id]
                    yield request, found

    def _run(self) -> None:
        while True:
            request = self._asked.get()
            self._done.put((request, self._compile(request)))
            os.write(self._writer, b"\0")

    def _compile(self, request: EngineRequest) -> EngineRequest | RequestError:
        wanted = request.params.structured_outputs
        assert wanted is not None
        try:
            grammar = self._open().compile(wanted)
        except RequestError as error:
            return error
        except UnillmError as error:
            return UnsupportedParameterError(
                f"structured_outputs need the model's tokenizer in the engine's "
                f"process, which cannot be read there: {error}",
                parameter="structured_outputs",
            )
        except Exception as error:  # noqa: BLE001 - the thread must go on
            return RequestFailedError(
                "structured_outputs could not be compiled in the engine's process: "
                f"{type(error).__name__}: {error}"
            )
        return attrs.evolve(request, grammar=grammar) if self._keeps else request

    def _open(self) -> GrammarCompiler:
        if self._compiler is None:
            from ..text.grammar import GrammarCompiler
            from ..text.loading import read_model_text

            config = self._config
            text = read_model_text(
                config.path,
                config.tokenizer,
                trust_remote_code=config.trust_remote_code,
            )
            self._compiler = GrammarCompiler(
                text.tokenizer, vocab_size=self._limits.vocab_size, eos_ids=text.eos.ids
            )
        return self._compiler
