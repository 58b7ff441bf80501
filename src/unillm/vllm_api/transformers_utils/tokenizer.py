# SPDX-License-Identifier: Apache-2.0

"""``vllm.transformers_utils.tokenizer``."""

from __future__ import annotations

from ..tokenizers import get_tokenizer

__all__ = ["get_tokenizer"]
