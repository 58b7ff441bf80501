# SPDX-License-Identifier: Apache-2.0

"""Log-probabilities in the two forms of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from ..outputs import Logprob

LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks; vLLM and SGLang write the same."""

Entries = dict[int, Logprob]
"""One position: the token's own entry, then those of the most probable tokens."""


class TopLogprob(Struct):
    """One token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8 of the token; null where it is a part of a character."""


class TokenLogprob(TopLogprob):
    """The chosen token, and the most probable ones at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """Log-probabilities of a chat's choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(Struct):
    """Log-probabilities of a completion's choice, one entry a token in each list."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]
    token_ranks: list[int | None] | UnsetType = UNSET
    """Ranks in the vocabulary, beside tokens that are named by their ids."""


def number(logprob: float) -> float:
    """Return a log-probability that JSON can write."""
    return logprob if math.isfinite(logprob) else LOWEST


def token_text(token_id: int, entry: Logprob, *, as_id: bool) -> str:
    """Return the text of a token, or ``token_id:123``."""
    return f"token_id:{token_id}" if as_id else entry.decoded_token or ""


def chat_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[Entries],
    *,
    top: int,
    as_ids: bool = False,
) -> ChatLogprobs:
    """Return the log-probabilities of new tokens in the form of a chat."""
    content = []
    for token_id, entries in zip(token_ids, logprobs, strict=True):
        best = [
            e for e in entries.items() if e[1].rank is not None and e[1].rank <= top
        ]
        best.sort(key=lambda each: each[1].rank or 0)
        token, logprob, utf8 = _entry(token_id, entries[token_id], as_ids)
        tops = [TopLogprob(*_entry(*each, as_ids)) for each in best]
        content.append(TokenLogprob(token, logprob, utf8, tops))
    return ChatLogprobs(content)


def _entry(token_id: int, entry: Logprob, as_id: bool) -> tuple[str, float, Any]:
    text = token_text(token_id, entry, as_id=as_id)
    # A token that is a part of a character has no text of its own.
    utf8 = None if "\ufffd" in text else list(text.encode())
    return text, number(entry.logprob), utf8


def completion_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[Entries | None],
    *,
    texts: Sequence[str] = (),
    offset: int = 0,
    as_ids: bool = False,
) -> tuple[CompletionLogprobs, int]:
    """Return log-probabilities in the form of a completion, and the next offset.

    Args:
        token_ids: The tokens, in order.
        logprobs: One entry for each; `None` for the first token of a prompt.
        texts: Texts of the leading tokens whose entry is `None`.
        offset: Characters before the first token.
        as_ids: Show ``token_id:123`` for each token.
    """
    ranks: list[int | None] = []
    found = CompletionLogprobs([], [], [], [], ranks if as_ids else UNSET)
    for position, (token_id, entries) in enumerate(
        zip(token_ids, logprobs, strict=True)
    ):
        found.text_offset.append(offset)
        if entries is None:
            text = f"token_id:{token_id}" if as_ids else texts[position]
            found.token_logprobs.append(None)
            found.top_logprobs.append(None)
            ranks.append(None)
        else:
            text = token_text(token_id, entries[token_id], as_id=as_ids)
            found.token_logprobs.append(number(entries[token_id].logprob))
            found.top_logprobs.append(_top(entries, as_ids))
            ranks.append(entries[token_id].rank)
        found.tokens.append(text)
        offset += len(text)
    return found, offset


def _top(entries: Entries, as_ids: bool) -> dict[str, float]:
    """Return the log-probability of each text; the higher one of equal texts."""
    found: dict[str, float] = {}
    for token_id, entry in entries.items():
        text = token_text(token_id, entry, as_id=as_ids)
        found[text] = max(number(entry.logprob), found.get(text, LOWEST))
    return found


def prompt_logprobs_json(logprobs: Sequence[Entries | None]) -> list[Any]:
    """Return the log-probabilities of a prompt in vLLM's form: dicts by token id."""
    return [
        None
        if entries is None
        else {
            str(token_id): {
                "logprob": number(entry.logprob),
                "rank": entry.rank,
                "decoded_token": entry.decoded_token,
            }
            for token_id, entry in entries.items()
        }
        for entries in logprobs
    ]
