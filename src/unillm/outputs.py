# SPDX-License-Identifier: Apache-2.0

"""What a request gives back. Names and meanings are vLLM's where vLLM has them."""

from __future__ import annotations

from typing import Literal

import attrs

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why a completion ended: an end id or stop text, its length, cancelled, failed."""


@attrs.frozen
class Logprob:
    """Log-probability of one token, before temperature, penalties and filters."""

    __module__ = "unillm"

    logprob: float
    rank: int | None = None
    """1 for the most probable token of the vocabulary."""
    decoded_token: str | None = None
    """Text of the token on its own; U+FFFD where it is a part of a character."""


@attrs.frozen(kw_only=True)
class SlotMetrics:
    """What one request cost on an engine whose slots unillm schedules."""

    __module__ = "unillm"

    waited_steps: int = 0
    """Engine steps between arrival and admission to a slot."""
    prefill_chunks: int = 0
    """Pieces in which the prompt was computed."""
    prefill_padding: int = 0
    """Padding positions computed for this request's share of its prefill calls."""
    decode_steps: int = 0
    """Decode steps that the request took part in."""
    refilled: bool = False
    """Whether it took over a slot while other requests were running."""


@attrs.frozen(kw_only=True)
class RequestMetrics:
    """Times and counts of one request.

    ``*_ts`` are seconds on the clock of `time.monotonic`; only differences mean
    something. `None` where the request never got that far.
    """

    __module__ = "unillm"

    arrival_time: float
    """Seconds since the epoch."""
    queued_ts: float
    first_token_ts: float | None = None
    last_token_ts: float | None = None
    num_generation_tokens: int = 0
    """New tokens over all completions."""
    slots: SlotMetrics | None = None
    """Of the first completion; `None` on engines that schedule by themselves."""

    @property
    def first_token_latency(self) -> float | None:
        """Seconds from arrival to the first token."""
        if self.first_token_ts is None:
            return None
        return self.first_token_ts - self.queued_ts


@attrs.frozen(kw_only=True)
class CompletionOutput:
    """One completion of a prompt."""

    __module__ = "unillm"

    index: int
    """0 to n-1."""
    text: str
    token_ids: list[int]
    """All new ids, the one that ended the completion among them."""
    cumulative_logprob: float | None = None
    """Sum over the new tokens; `None` unless `SamplingParams.logprobs` asked."""
    logprobs: list[dict[int, Logprob]] | None = None
    """For each new token: its own entry first, then the most probable ones."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop id or string that ended it; `None` for the tokenizer's own EOS."""

    def finished(self) -> bool:
        """Whether the completion has ended (a method, as in vLLM)."""
        return self.finish_reason is not None


@attrs.frozen(kw_only=True)
class CompletionDelta:
    """What a stream yields: the part of one completion that is new.

    The texts of all deltas of one index, joined, are the completion's text, and so are
    the ids. A reader that is slower than the engine gets fewer, longer deltas.
    """

    __module__ = "unillm"

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    """Set in the last delta of this index."""
    stop_reason: int | str | None = None


@attrs.frozen(kw_only=True)
class RequestOutput:
    """Everything about one prompt and its completions.

    `text`, `token_ids` and `finish_reason` are those of the first completion.
    """

    __module__ = "unillm"

    request_id: str
    prompt: str | None
    """Text as it was tokenised, chat template included; `None` for token prompts."""
    prompt_token_ids: list[int]
    """As the engine saw them."""
    outputs: list[CompletionOutput]
    """In index order."""
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """As long as the prompt if `SamplingParams.prompt_logprobs` asked: `None` for its
    first token, then each token's own entry first and the most probable ones."""
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    """Prompt tokens that the engine took from a prefix cache."""
    num_truncated_tokens: int = 0
    """Tokens cut from the prompt's start because `truncate_prompt_tokens` asked."""
    fitted_max_tokens: int | None = None
    """New tokens allowed, where the context had less room than `max_tokens` asked."""

    @property
    def text(self) -> str:
        """Text of the first completion."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        """New token ids of the first completion."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first completion ended."""
        return self.outputs[0].finish_reason
