# SPDX-License-Identifier: Apache-2.0

"""One `Generator` over every LLM inference engine.

Importing this package loads no engine, no torch and no tokenizer; the first use of a
public name imports its module. Public are the names here and the modules `backend`,
`errors`, `hookspecs`, `jobs`, `testing` and `vllm_api`; all other modules are private.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import errors as errors
    from .config import EngineConfig as EngineConfig
    from .errors import UnillmError as UnillmError
    from .generator import Generator as Generator
    from .inspection import MemoryReport as MemoryReport
    from .inspection import ModelReport as ModelReport
    from .inspection import StepReport as StepReport
    from .inspection import WeightsReport as WeightsReport
    from .inspection import inspect_model as inspect_model
    from .jobs.report import BatchReport as BatchReport
    from .jobs.run import run_batch as run_batch
    from .lora import LoRARequest as LoRARequest
    from .outputs import CompletionDelta as CompletionDelta
    from .outputs import CompletionOutput as CompletionOutput
    from .outputs import FlatLogprobs as FlatLogprobs
    from .outputs import Logprob as Logprob
    from .outputs import RequestMetrics as RequestMetrics
    from .outputs import RequestOutput as RequestOutput
    from .outputs import SlotMetrics as SlotMetrics
    from .params import SamplingParams as SamplingParams
    from .params import SamplingParamsWarning as SamplingParamsWarning
    from .plugins import BackendStatus as BackendStatus
    from .process.registry import backends as backends
    from .runtime.handle import RequestHandle as RequestHandle
    from .structured_outputs import StructuredOutputs as StructuredOutputs
    from .structured_outputs import StructuredOutputsParams as StructuredOutputsParams
    from .text.prompts import PromptType as PromptType
    from .text.prompts import TextPrompt as TextPrompt
    from .text.prompts import TokensPrompt as TokensPrompt
    from .vllm_api.beam_search import BeamSearchParams as BeamSearchParams
    from .vllm_api.engine.arg_utils import EngineArgs as EngineArgs
    from .vllm_api.engine.llm_engine import LLMEngine as LLMEngine
    from .vllm_api.llm import LLM as LLM

    __version__: str

_NAMES = {
    ".config": ("EngineConfig",),
    ".errors": ("UnillmError",),
    ".generator": ("Generator",),
    ".inspection": (
        "MemoryReport",
        "ModelReport",
        "StepReport",
        "WeightsReport",
        "inspect_model",
    ),
    ".jobs.report": ("BatchReport",),
    ".jobs.run": ("run_batch",),
    ".lora": ("LoRARequest",),
    ".outputs": (
        "CompletionDelta",
        "CompletionOutput",
        "FlatLogprobs",
        "Logprob",
        "RequestMetrics",
        "RequestOutput",
        "SlotMetrics",
    ),
    ".params": ("SamplingParams", "SamplingParamsWarning"),
    ".plugins": ("BackendStatus",),
    ".process.registry": ("backends",),
    ".runtime.handle": ("RequestHandle",),
    ".structured_outputs": ("StructuredOutputs", "StructuredOutputsParams"),
    ".text.prompts": ("PromptType", "TextPrompt", "TokensPrompt"),
    ".vllm_api.beam_search": ("BeamSearchParams",),
    ".vllm_api.engine.arg_utils": ("EngineArgs",),
    ".vllm_api.engine.llm_engine": ("LLMEngine",),
    ".vllm_api.llm": ("LLM",),
}
"""Public names by the module that defines them."""

_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_WHERE, "__version__", "errors"]  # noqa: PLE0604 - all are strings

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from .distributions import VERSION

            return VERSION
        if name == "errors":
            return import_module(".errors", __name__)
        if name not in _WHERE:
            from .vllm_api.names import UNAVAILABLE_IMPORTS

            if reason := UNAVAILABLE_IMPORTS.get(name):
                # `from unillm import …` would not show the reason of an AttributeError.
                raise ImportError(f"unillm has no {name}: {reason}.", name=name)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_WHERE[name], __name__), name)
        return value


def __dir__() -> list[str]:
    return __all__
