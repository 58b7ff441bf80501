# SPDX-License-Identifier: Apache-2.0

"""One `Generator` over every LLM inference engine.

Importing this package loads no engine, no torch and no tokenizer; each public name is
loaded when it is first used. Public are the names here and the modules `backend`,
`errors`, `hookspecs` and `testing`; all other modules are private.
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
    from .inspection import WeightsReport as WeightsReport
    from .inspection import inspect_model as inspect_model
    from .lora import LoRARequest as LoRARequest
    from .outputs import CompletionDelta as CompletionDelta
    from .outputs import CompletionOutput as CompletionOutput
    from .outputs import Logprob as Logprob
    from .outputs import RequestMetrics as RequestMetrics
    from .outputs import RequestOutput as RequestOutput
    from .outputs import SlotMetrics as SlotMetrics
    from .params import SamplingParams as SamplingParams
    from .params import StructuredOutputs as StructuredOutputs
    from .params import StructuredOutputsParams as StructuredOutputsParams
    from .plugins import BackendStatus as BackendStatus
    from .plugins import backends as backends
    from .runtime.handle import RequestHandle as RequestHandle
    from .text.prompts import PromptType as PromptType
    from .text.prompts import TextPrompt as TextPrompt
    from .text.prompts import TokensPrompt as TokensPrompt
    from .vllm_api.llm import LLM as LLM

    __version__: str

_WHERE = {
    "BackendStatus": ".plugins",
    "CompletionDelta": ".outputs",
    "CompletionOutput": ".outputs",
    "EngineConfig": ".config",
    "Generator": ".generator",
    "LLM": ".vllm_api.llm",
    "LoRARequest": ".lora",
    "Logprob": ".outputs",
    "MemoryReport": ".inspection",
    "ModelReport": ".inspection",
    "PromptType": ".text.prompts",
    "RequestHandle": ".runtime.handle",
    "RequestMetrics": ".outputs",
    "RequestOutput": ".outputs",
    "SamplingParams": ".params",
    "SlotMetrics": ".outputs",
    "StructuredOutputs": ".params",
    "StructuredOutputsParams": ".params",
    "TextPrompt": ".text.prompts",
    "TokensPrompt": ".text.prompts",
    "UnillmError": ".errors",
    "WeightsReport": ".inspection",
    "backends": ".plugins",
    "inspect_model": ".inspection",
}
"""Public name to the module that has it."""

__all__ = [*_WHERE, "__version__", "errors"]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("unillm")
    if name == "errors":
        return import_module(".errors", __name__)
    if name not in _WHERE:
        from .vllm_api.names import NOT_HERE

        if name in NOT_HERE:  # an import would not show an AttributeError's reason
            raise ImportError(f"unillm has no {name}: {NOT_HERE[name]}.", name=name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
