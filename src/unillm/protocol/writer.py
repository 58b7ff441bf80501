# SPDX-License-Identifier: Apache-2.0

"""`Writer`: the outputs of one HTTP request as a body or as events of a stream."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from msgspec import UNSET, Struct, UnsetType
from typing_extensions import override

from ..outputs import CompletionDelta, RequestOutput
from .bodies import StreamOptions
from .errors import ErrorReply

DONE = b"data: [DONE]\n\n"
"""The last event of a stream of completions or of a chat."""

encode = msgspec.json.Encoder().encode


class PromptTokensDetails(Struct):
    """Parts of `Usage.prompt_tokens`."""

    cached_tokens: int


class Usage(Struct):
    """Counts of tokens, over all prompts and choices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET


def event(value: Struct) -> bytes:
    """Return a value as one event of a stream."""
    return b"data: " + encode(value) + b"\n\n"


@attrs.frozen(kw_only=True)
class Answering:
    """Facts that each body and chunk of one HTTP request repeats."""

    request_id: str
    created: int
    """Seconds since the epoch."""
    model: str
    num_choices: int = 1
    """Choices of each prompt."""
    cached_tokens: bool = False
    """Whether the usage says how many tokens of the prompt came from a cache."""
    role: str = "assistant"
    """Role of a chat's answers."""
    tokens_as_ids: bool = False
    """Whether log-probabilities name tokens by their ids unless a request says so."""
    always_usage: bool = False
    """Whether a stream ends with its usage without being asked."""


class Writer(abc.ABC):
    """Turns outputs into a body, or deltas into the events of a stream.

    A writer serves one HTTP request. The events, joined, say the same as the body.
    """

    @abc.abstractmethod
    def whole(self, outputs: Sequence[RequestOutput]) -> Struct:
        """Return the body for the outputs of all prompts, in order."""

    @abc.abstractmethod
    def begin(self) -> bytes:
        """Return the events before the first token."""

    @abc.abstractmethod
    def delta(
        self, prompt: int, delta: CompletionDelta, so_far: Callable[[], RequestOutput]
    ) -> bytes:
        """Return the events for new text; empty if there is nothing to show.

        Args:
            prompt: Index of the prompt.
            delta: The new part of one of its completions.
            so_far: Returns the output of that prompt until now.
        """

    @abc.abstractmethod
    def end(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Return the events after the last token."""

    @abc.abstractmethod
    def fail(self, reply: ErrorReply) -> bytes:
        """Return the events that end a stream with an error."""


class ChunkWriter(Writer):
    """The common part of completions and chats: usage, the last event, errors."""

    def __init__(
        self,
        answering: Answering,
        *,
        prompt_token_ids: Sequence[Sequence[int]],
        stream_options: StreamOptions | None,
        as_ids: bool | None,
    ) -> None:
        options = stream_options or StreamOptions()
        self._facts = answering
        self._prompt_token_ids = prompt_token_ids
        self._continuous = bool(
            options.include_usage and options.continuous_usage_stats
        )
        self._last_usage = bool(options.include_usage) or answering.always_usage
        self._as_ids = answering.tokens_as_ids if as_ids is None else as_ids
        self._num_new = 0  # tokens so far, over all choices

    def _usage(self, outputs: Sequence[RequestOutput]) -> Usage:
        """Return the counts at the end."""
        new = sum(len(each.token_ids) for out in outputs for each in out.outputs)
        usage = self._counts(new)
        if self._facts.cached_tokens:
            cached = sum(each.num_cached_tokens for each in outputs)
            usage.prompt_tokens_details = PromptTokensDetails(cached)
        return usage

    def _counts(self, new: int) -> Usage:
        prompt = sum(map(len, self._prompt_token_ids))
        return Usage(prompt, new, prompt + new)

    def _usage_so_far(self) -> Usage | UnsetType:
        return self._counts(self._num_new) if self._continuous else UNSET

    @abc.abstractmethod
    def _usage_chunk(self, usage: Usage) -> Struct:
        """Return the chunk without choices."""

    @override
    def end(self, outputs: Sequence[RequestOutput]) -> bytes:
        if not self._last_usage:
            return DONE
        return event(self._usage_chunk(self._usage(outputs))) + DONE

    @override
    def fail(self, reply: ErrorReply) -> bytes:
        return reply.event() + DONE


def or_unset(value: Any, given: bool | None) -> Any:
    """Return *value* if the request asks for it, and else no field at all."""
    return value if given else UNSET
