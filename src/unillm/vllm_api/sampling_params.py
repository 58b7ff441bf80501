# SPDX-License-Identifier: Apache-2.0

"""``vllm.sampling_params``."""

from __future__ import annotations

import enum

from ..params import SamplingParams
from ..structured_outputs import StructuredOutputsParams
from .beam_search import BeamSearchParams

__all__ = [
    "BeamSearchParams",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
]


class RequestOutputKind(enum.IntEnum):
    """Output of an engine of vLLM before the end; `LLM` returns finished outputs."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2
