# SPDX-License-Identifier: Apache-2.0

"""The chat templates of a tokenizer, by their names, and the one for a call.

Most tokenizers have one template. Some have several, as transformers reads them: the
default one, one for calls with tools, and others that only a caller names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ChatTemplateError

DEFAULT = "default"
WITH_TOOLS = "tool_use"


def templates_by_name(templates: Any) -> Mapping[str, str]:
    """Return transformers' ``chat_template``, which is a text, a dict or `None`."""
    if isinstance(templates, Mapping):
        return dict(templates)
    return {} if templates is None else {DEFAULT: templates}


def is_template(text: str) -> bool:
    """Whether a text is a template and not the name of one."""
    return "{" in text


def choose_template(
    templates: Mapping[str, str],
    given: str | None,
    *,
    with_tools: bool,
    files: Sequence[str] = (),
) -> str:
    """Return the text of the template that renders a conversation.

    Args:
        templates: Those of the tokenizer.
        given: The caller's own template, the name of one of the tokenizer's, or `None`.
        with_tools: Whether the caller offers tools.
        files: The tokenizer's files, for the message.

    Raises:
        ChatTemplateError: The tokenizer has no such template, or no default.

    References:
        ``PreTrainedTokenizerBase.get_chat_template``, transformers 5.19.
    """
    names = ", ".join(map(repr, sorted(templates)))
    if given is not None:
        if given not in templates and not is_template(given):
            raise ChatTemplateError(
                "chat_template must be the text of a Jinja template or the name of one "
                f"of the tokenizer's ({names or 'it has none'}), got {given[:80]!r}. "
                "Pass the text of a template's file, not the file's name."
            )
        return templates.get(given, given)
    default = templates.get(DEFAULT)
    found = templates.get(WITH_TOOLS, default) if with_tools else default
    if found is not None:
        return found
    if templates:
        raise ChatTemplateError(
            f"The tokenizer has the chat templates {names}, and none of them is the "
            "default. Pass chat_template= with one of these names."
        )
    where = f" ({', '.join(files)})" if files else ""
    raise ChatTemplateError(
        f"The tokenizer has no chat template{where}. Pass chat_template= with the text "
        "of one, or use generate() with a prompt that is already in the model's format."
    )
