# SPDX-License-Identifier: Apache-2.0

"""``vllm.inputs``: the forms of a prompt."""

from __future__ import annotations

from ..text.prompts import PromptType, TextPrompt, TokensPrompt

__all__ = ["PromptType", "TextPrompt", "TokensPrompt"]
