# SPDX-License-Identifier: Apache-2.0

"""The stable face for authors of backends.

A plugin imports from `unillm`, `unillm.backend`, `unillm.errors`, `unillm.hookspecs`
and `unillm.testing`, and from no other module of the package: all others are private
and move without notice.

`API_VERSION` is the version of this face, and the page "The face for authors of
backends" has every name and the policy of changes.

Importing this module loads no engine, no torch and no transformers. The names of
`_LAZY`, which need torch, numpy or the store of artifacts, are imported when they are
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .config import ENGINE_OPTIONS as ENGINE_OPTIONS
from .config import EngineConfig as EngineConfig
from .embedded.memory import MEMORY_SHARE as MEMORY_SHARE
from .embedded.memory import check_model_len as check_model_len
from .embedded.memory import free_bytes as free_bytes
from .embedded.memory import plan_limits as plan_limits
from .engines.aspects import ASPECTS as ASPECTS
from .engines.backend import API_VERSION as API_VERSION
from .engines.backend import Availability as Availability
from .engines.backend import Backend as Backend
from .engines.backend import Finding as Finding
from .engines.backend import Sometimes as Sometimes
from .engines.base import ALWAYS as ALWAYS
from .engines.base import FEATURES as FEATURES
from .engines.base import SAMPLED as SAMPLED
from .engines.base import SAMPLING_FIELDS as SAMPLING_FIELDS
from .engines.base import Capabilities as Capabilities
from .engines.base import Capability as Capability
from .engines.base import Engine as Engine
from .engines.base import EngineLimits as EngineLimits
from .engines.base import EngineOutput as EngineOutput
from .engines.base import EngineRequest as EngineRequest
from .engines.base import Support as Support
from .engines.base import TokenGrammar as TokenGrammar
from .engines.base import TokenGrammarState as TokenGrammarState
from .engines.base import TokenLogprobs as TokenLogprobs
from .engines.batches import BatchEngine as BatchEngine
from .engines.batches import BatchRow as BatchRow
from .engines.batches import BatchTraits as BatchTraits
from .engines.batches import PromptWork as PromptWork
from .engines.batches import RowTokens as RowTokens
from .engines.batches import Run as Run
from .engines.batches import RunStep as RunStep
from .engines.slots import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS as DEFAULT_MAX_NUM_BATCHED_TOKENS,
)
from .engines.slots import PrefillResult as PrefillResult
from .engines.slots import PromptChunk as PromptChunk
from .engines.slots import Results as Results
from .engines.slots import SlotEngine as SlotEngine
from .engines.slots import SlotToken as SlotToken
from .files import read_json as read_json
from .hookspecs import hookimpl as hookimpl
from .lora import LoRARequest as LoRARequest
from .model.adapters import without_adapter as without_adapter
from .model.checkpoint import check_code as check_code
from .model.checkpoint import check_weights as check_weights
from .model.checkpoint import find_config as find_config
from .model.checkpoint import load_config as load_config
from .model.checkpoint import read_config as read_config
from .model.checkpoint import refuse_pickles as refuse_pickles
from .model.declared import quantization_of as quantization_of
from .model.find import find_model as find_model
from .model.fitting import HEADROOM as HEADROOM
from .model.fitting import largest_limits as largest_limits
from .model.fitting import out_of_memory as out_of_memory
from .model.memory import GIB as GIB
from .model.memory import Limits as Limits
from .model.memory import MemoryNeeds as MemoryNeeds
from .model.memory import memory_needs as memory_needs
from .model.positions import model_positions as model_positions
from .model.positions import positions_of as positions_of
from .outputs import FinishReason as FinishReason
from .outputs import SlotMetrics as SlotMetrics
from .params import SamplingParams as SamplingParams
from .phases import phase as phase
from .runtime.allocator import give_back as give_back
from .runtime.allocator import keep_freed as keep_freed
from .scheduling.queue import WaitingQueue as WaitingQueue
from .scheduling.runs import RunScheduler as RunScheduler
from .scheduling.slots import SlotScheduler as SlotScheduler
from .structured_outputs import StructuredOutputs as StructuredOutputs
from .text.loading import ModelText as ModelText
from .text.loading import read_model_text as read_model_text
from .text.notation import StructureNotation as StructureNotation
from .text.notation import structure_notation as structure_notation

if TYPE_CHECKING:
    from .artifacts.converter import run_converter as run_converter
    from .artifacts.folder import ArtifactFolder as ArtifactFolder
    from .artifacts.key import BuildSpec as BuildSpec
    from .artifacts.progress import Progress as Progress
    from .artifacts.store import Artifact as Artifact
    from .artifacts.store import ArtifactStore as ArtifactStore
    from .embedded.loading import check_tensors as check_tensors
    from .embedded.loading import load_model as load_model
    from .sampling.request_sampler import RequestSampler as RequestSampler
    from .sampling.request_sampler import token_logprobs as token_logprobs
    from .sampling.sampler import Choice as Choice
    from .sampling.sampler import Sampler as Sampler

_LAZY = {
    "Artifact": ".artifacts.store",
    "ArtifactFolder": ".artifacts.folder",
    "ArtifactStore": ".artifacts.store",
    "BuildSpec": ".artifacts.key",
    "Choice": ".sampling.sampler",
    "Progress": ".artifacts.progress",
    "RequestSampler": ".sampling.request_sampler",
    "Sampler": ".sampling.sampler",
    "check_tensors": ".embedded.loading",
    "load_model": ".embedded.loading",
    "run_converter": ".artifacts.converter",
    "token_logprobs": ".sampling.request_sampler",
}
"""Name to the module that has it."""

_OWN = {"TYPE_CHECKING", "annotations", "import_module"}

__all__ = [*_LAZY, *(n for n in globals() if n[0] != "_" and n not in _OWN)]  # noqa: PLE0604

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LAZY[name], __package__), name)


def __dir__() -> list[str]:
    return __all__
