# SPDX-License-Identifier: Apache-2.0

"""``vllm.logprobs``."""

from __future__ import annotations

from typing import TypeAlias

from ..outputs import FlatLogprobs, Logprob

__all__ = ["FlatLogprobs", "Logprob", "PromptLogprobs", "SampleLogprobs"]

PromptLogprobs: TypeAlias = list[dict[int, Logprob] | None] | FlatLogprobs
"""An entry for each token of a prompt; `None` for the first."""

SampleLogprobs: TypeAlias = list[dict[int, Logprob]] | FlatLogprobs
"""An entry for each new token."""
