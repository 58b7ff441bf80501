# SPDX-License-Identifier: Apache-2.0

"""From logits to token ids, for engines that hand out logits; all rows at once.

Names, meanings and order are vLLM's (0.32). What a request draws depends on its seed,
its step and its logits alone: not on its slot, its neighbours or the batch size.

Private to the core.
"""

from __future__ import annotations

from .logprobs import PromptLogprobs
from .sampler import Sampler

__all__ = ["PromptLogprobs", "Sampler"]
