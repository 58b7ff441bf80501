# SPDX-License-Identifier: Apache-2.0

"""The package that is shaped like vLLM: `LLM`, its arguments and vLLM's other names.

Its modules have vLLM's paths: ``vllm.lora.request`` is ``unillm.vllm_api.lora.request``
here, with the names that programs import from it. `install` lets a program import them
as ``vllm``, without a change; ``python -m unillm.vllm_api run program.py`` does that
for a script. Public are `install`, the names of the package and of these modules; the
classes themselves are those of `unillm`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .names import UNAVAILABLE_IMPORTS, VLLM_VERSION

if TYPE_CHECKING:
    from .shim import install as install

_NAMES = {
    ".engine.arg_utils": ("EngineArgs",),
    ".engine.llm_engine": ("LLMEngine",),
    ".inputs": ("PromptType", "TextPrompt", "TokensPrompt"),
    ".llm": ("LLM",),
    ".outputs": ("CompletionOutput", "RequestOutput"),
    ".sampling_params": ("SamplingParams",),
    ".shim": ("install",),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_WHERE)
__version__ = VLLM_VERSION


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        if reason := UNAVAILABLE_IMPORTS.get(name):
            raise ImportError(f"unillm.vllm_api has no {name}: {reason}.", name=name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name], __name__), name)
    return value
