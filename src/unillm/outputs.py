# SPDX-License-Identifier: Apache-2.0

"""Outputs of a request. Names and meanings are vLLM's where vLLM has them.

They are plain dataclasses that a program may change: nothing here reads them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why a completion ended: an EOS token or stop string, length, cancelled, failed."""


@dataclass
class Logprob:
    """Log-probability of one token, before temperature, penalties and filters.

    An engine with another ``logprobs_mode`` gives those after them, or scores.
    """

    __module__ = "unillm"

    logprob: float
    rank: int | None = None
    """1 for the most probable token of the vocabulary."""
    decoded_token: str | None = None
    """Text of the token on its own; U+FFFD where it is a part of a character. In the
    outputs of `LLM`, as in vLLM: the character that the token completes, or ``""``."""


@dataclass
class FlatLogprobs(Sequence[dict[int, Logprob]]):
    """Log-probabilities of many positions in six lists, and to read a list of dicts.

    The garbage collector has a constant number of objects to look at, however many
    positions and tokens there are. Names are vLLM's.
    """

    __module__ = "unillm"

    start_indices: list[int] = field(default_factory=list)
    """Start of each position in the four lists of entries."""
    end_indices: list[int] = field(default_factory=list)
    """End of each position there, exclusive."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int | None] = field(default_factory=list)
    decoded_tokens: list[str | None] = field(default_factory=list)

    def append(self, entries: dict[int, Logprob] | None) -> None:
        """Add a position; `None` for one without entries, which reads as ``{}``."""
        self.start_indices.append(len(self.token_ids))
        for token_id, entry in (entries or {}).items():
            self.token_ids.append(token_id)
            self.logprobs.append(entry.logprob)
            self.ranks.append(entry.rank)
            self.decoded_tokens.append(entry.decoded_token)
        self.end_indices.append(len(self.token_ids))

    def extend(self, positions: Iterable[dict[int, Logprob] | None]) -> None:
        """Add several positions."""
        for entries in positions:
            self.append(entries)

    def __len__(self) -> int:
        return len(self.start_indices)

    @overload
    def __getitem__(self, index: int) -> dict[int, Logprob]: ...

    @overload
    def __getitem__(self, index: slice) -> FlatLogprobs: ...

    def __getitem__(self, index: int | slice) -> dict[int, Logprob] | FlatLogprobs:
        if isinstance(index, slice):
            found = FlatLogprobs()
            found.extend(self[each] for each in range(*index.indices(len(self))))
            return found
        entries = range(self.start_indices[index], self.end_indices[index])
        return {
            self.token_ids[each]: Logprob(
                self.logprobs[each], self.ranks[each], self.decoded_tokens[each]
            )
            for each in entries
        }


@dataclass(kw_only=True)
class SlotMetrics:
    """Cost of one request on an engine whose slots unillm schedules."""

    __module__ = "unillm"

    slot: int | None = None
    """Number of the slot, from 0; `None` on an engine with static batches."""
    waited_steps: int = 0
    """Engine steps between arrival and admission to a slot."""
    prefill_chunks: int = 0
    """Pieces in which the prompt was computed."""
    prefill_padding: int = 0
    """Padding positions computed for this request's share of its prefill calls."""
    decode_steps: int = 0
    """Decode steps that the request took part in."""
    refilled: bool = False
    """Whether the request took over a slot while others were running."""


@dataclass(kw_only=True)
class RequestMetrics:
    """Times and counts of one request.

    ``*_ts`` are seconds on the clock of `time.monotonic`; only differences mean
    something. A time that the request did not reach is `None`.
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
    """Cost of the first completion; `None` on engines with a scheduler of their own."""

    @property
    def first_token_latency(self) -> float | None:
        """Seconds from arrival to the first token."""
        if self.first_token_ts is None:
            return None
        return self.first_token_ts - self.queued_ts


@dataclass(kw_only=True)
class CompletionOutput:
    """One completion of a prompt."""

    __module__ = "unillm"

    index: int
    """0 to n-1."""
    text: str
    token_ids: list[int]
    """All new ids, including the one that ended the completion."""
    cumulative_logprob: float | None = None
    """Sum over the new tokens; `None` without `SamplingParams.logprobs`."""
    logprobs: list[dict[int, Logprob]] | FlatLogprobs | None = None
    """For each new token: its own entry first, then the most probable ones."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop token id or string that ended it; `None` for the tokenizer's own EOS."""
    lora_request: Any = None
    """The caller's `LoRARequest`, if one was used."""

    def finished(self) -> bool:
        """Whether the completion has ended (a method, as in vLLM)."""
        return self.finish_reason is not None


@dataclass(kw_only=True)
class CompletionDelta:
    """The part of one completion that is new in a stream.

    The deltas of one index, joined, are the completion's text and token ids. A reader
    that is slower than the engine gets fewer, longer deltas.
    """

    __module__ = "unillm"

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | FlatLogprobs | None = None
    finish_reason: FinishReason | None = None
    """Set in the last delta of this index."""
    stop_reason: int | str | None = None


@dataclass(kw_only=True)
class RequestOutput:
    """One prompt and its completions.

    `text`, `token_ids` and `finish_reason` are those of the first completion.
    """

    __module__ = "unillm"

    request_id: str
    prompt: str | None
    """Text as it was tokenised, chat template included; `None` for token prompts."""
    prompt_token_ids: list[int]
    """Ids as the engine saw them."""
    outputs: list[CompletionOutput]
    """In index order."""
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | FlatLogprobs | None = None
    """With `SamplingParams.prompt_logprobs`, an entry for each prompt token: `None` for
    the first (``{}`` in `FlatLogprobs`), then each token's own entry followed by the
    most probable ones."""
    metrics: RequestMetrics | None = None
    lora_request: Any = None
    """The caller's `LoRARequest`, if one was used."""
    num_cached_tokens: int = 0
    """Prompt tokens that came from a prefix cache."""
    num_truncated_tokens: int = 0
    """Tokens that `truncate_prompt_tokens` cut from the prompt's start."""
    fitted_max_tokens: int | None = None
    """New tokens allowed, where `max_tokens` is more than the context had room for."""

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
