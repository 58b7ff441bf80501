# SPDX-License-Identifier: Apache-2.0

"""The sampler that draws the tokens, and what the installed version of it honours.

``TRTLLMSampler`` is the C++ decoder, which runs engines too. ``TorchSampler`` is its
successor on PyTorch. It takes every field of ``SamplingParams`` in all versions, and
ignores those that it does not have yet: temperature at first, penalties, seeds and bans
for long. Its modules show what it has, so no version number is compared here.

References:
    ``create_torch_sampler`` and its successors in
    ``tensorrt_llm/_torch/pyexecutor/_util.py``, ``sampler.py``, ``sampling_utils.py``
    (late 2025) and the package ``sampler/`` (2026); pull requests #6216, #6451, #6831,
    #7294, #16485, #16590 and #17172 of NVIDIA/TensorRT-LLM.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from ._entry_paths import EntryPath, Installed, fields_of, module

_SAMPLER = "tensorrt_llm._torch.pyexecutor.sampler"
_PARAMS_MODULES = (
    f"{_SAMPLER}.sampler_common",
    f"{_SAMPLER}.sampling_utils",
    "tensorrt_llm._torch.pyexecutor.sampling_utils",
)
"""Where ``UtilsSamplingParams`` lives, newest first: what TorchSampler draws by."""

_CHOOSES_CPP: Mapping[str, Any] = MappingProxyType(
    {
        "sampler_type": "TRTLLMSampler",
        "use_torch_sampler": False,
        "enable_trtllm_sampler": True,
    }
)
"""Options of the LLM class that choose the C++ decoder, newest first."""


class Sampler(enum.Enum):
    """A sampler of the LLM API."""

    CPP = "the C++ decoder"
    TORCH = "TorchSampler"


@attrs.frozen
class SamplerChoice:
    """A sampler, and the arguments of the LLM class that choose it."""

    sampler: Sampler
    arguments: Mapping[str, Any] = attrs.field(factory=dict)


def choose_sampler(installed: Installed, options: dict[str, Any]) -> SamplerChoice:
    """Choose the C++ decoder where PyTorch has it, or what the user's options say.

    Args:
        installed: The installed TensorRT-LLM.
        options: The user's; those that choose a sampler are taken out.
    """
    has_cpp = hasattr(module(_SAMPLER), "TRTLLMSampler")
    known = installed.arguments_of(EntryPath.PYTORCH)
    for name, value in _CHOOSES_CPP.items():
        if name not in known:
            continue
        if name in options:
            asked = options.pop(name)
            wants_cpp = getattr(asked, "value", asked) == value
            sampler = Sampler.CPP if has_cpp and wants_cpp else Sampler.TORCH
            return SamplerChoice(sampler, {name: asked})
        if has_cpp:
            return SamplerChoice(Sampler.CPP, {name: value})
    return SamplerChoice(Sampler.TORCH)


@attrs.frozen(kw_only=True)
class TorchSampler:
    """Fields of the installed TorchSampler. It repeats no seed in any version."""

    draws: bool
    """Temperature, top-k, top-p and biases; without it, it takes the best token."""
    min_p: bool
    penalties: bool
    bans: bool
    """Bad words, and EOS tokens under ``min_tokens``."""

    @classmethod
    def look(cls) -> TorchSampler:
        """Import its modules."""
        found = [
            params
            for name in _PARAMS_MODULES
            if (params := getattr(module(name), "UtilsSamplingParams", None))
        ]
        return cls(
            draws=bool(found),
            min_p=bool(found) and "min_p" in fields_of(found[0]),
            penalties=module(f"{_SAMPLER}.penalties") is not None,
            bans=module(f"{_SAMPLER}.token_ban") is not None,
        )


def joins_chunks_with_reuse() -> bool:
    """Whether chunked prefill with block reuse gives right tokens.

    It mixed up blocks until pull requests #12673, #12769 and #12786 of April 2026; the
    module of penalties came in July.
    """
    return module(f"{_SAMPLER}.penalties") is not None
