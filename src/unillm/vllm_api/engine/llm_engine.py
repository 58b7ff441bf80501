# SPDX-License-Identifier: Apache-2.0

"""``vllm.engine.llm_engine``."""

from __future__ import annotations

from typing import Any

from typing_extensions import Self

from ..llm import LLM
from ..stepping import SteppedEngine

__all__ = ["LLMEngine"]


class LLMEngine(SteppedEngine):
    """vLLM's engine: a program adds requests and steps it.

    Create it with `from_engine_args`. Whatever would reach into the engine is an
    `AttributeError` that names the calls of `Generator`.
    """

    __module__ = "unillm"

    _owner: LLM | None = None

    @classmethod
    def from_engine_args(cls, engine_args: Any, **_: Any) -> Self:
        """Create a model from `EngineArgs`, also those of an installed vLLM."""
        llm = LLM.from_engine_args(engine_args)
        engine = cls(llm.generator)
        engine._owner = llm
        return engine
