# SPDX-License-Identifier: Apache-2.0

"""``vllm.entrypoints.chat_utils``: the chat template of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def resolve_hf_chat_template(
    tokenizer: Any,
    chat_template: str | None,
    tools: Sequence[Any] | None,
    **_: Any,
) -> str | None:
    """Return the text of a template that is given, or else of the tokenizer's own.

    Args:
        tokenizer: A tokenizer of transformers.
        chat_template: Text or name of a template, or `None`.
        tools: Not `None` for the template that offers tools, if there are several.

    Returns:
        `None` if the tokenizer has no template.
    """
    try:
        found: str = tokenizer.get_chat_template(chat_template, tools=tools)
    except (AttributeError, ValueError):  # it has none
        return chat_template
    return found
