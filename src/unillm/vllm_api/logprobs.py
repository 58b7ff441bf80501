# SPDX-License-Identifier: Apache-2.0

"""``vllm.logprobs``."""

from __future__ import annotations

from ..outputs import Logprob

__all__ = ["Logprob", "PromptLogprobs", "SampleLogprobs"]

PromptLogprobs = list[dict[int, Logprob] | None]
"""An entry for each token of a prompt; `None` for the first."""

SampleLogprobs = list[dict[int, Logprob]]
"""An entry for each new token."""
