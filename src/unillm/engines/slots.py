# SPDX-License-Identifier: Apache-2.0

"""`SlotEngine`: the contract of a static batch whose rows are filled one by one.

A backend implements it, and `unillm.scheduling.slots.SlotScheduler` makes an `Engine`
of it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence

import attrs

from .base import Capabilities, EngineRequest, TokenLogprobs

DEFAULT_MAX_NUM_BATCHED_TOKENS = 2048
"""Prompt tokens that one step computes at most. It bounds how long a prefill delays the
rows that decode."""


@attrs.frozen(kw_only=True)
class PromptChunk:
    """Prompt tokens ``start:end`` of a request, to be written into a slot."""

    slot: int
    request: EngineRequest
    start: int
    end: int
    prefix_slot: int | None = None
    """The slot, free or not, whose row begins with the tokens before a first chunk. It
    may be `slot` itself. `None` where no tokens are before the chunk."""

    @property
    def is_first(self) -> bool:
        """Whether the chunk gives the slot a new owner."""
        return self.start == 0 or self.prefix_slot is not None

    @property
    def is_last(self) -> bool:
        """Whether the chunk ends the prompt, so that the first new token follows."""
        return self.end == len(self.request.prompt_token_ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The token ids of this chunk."""
        return self.request.prompt_token_ids[self.start : self.end]


@attrs.frozen
class SlotToken:
    """The new token of one slot, or the error that replaces it."""

    token_id: int
    """Ignored if `error` is set."""
    logprobs: TokenLogprobs | None = None
    """Set if the request asks for them."""
    error: str | None = None
    """Why the row has no token; its request fails, and the others continue."""


@attrs.frozen(kw_only=True)
class PrefillResult:
    """The result of one `SlotEngine.prefill`."""

    tokens: Sequence[SlotToken | None]
    """One for each chunk, in their order; `None` unless the chunk ends its prompt."""
    padding: Sequence[int]
    """Computed padding positions, one number for each chunk."""
    prompt_logprobs: Sequence[Sequence[TokenLogprobs] | None] = ()
    """For each chunk, those of the prompt tokens that its positions predict, which are
    ``start + 1`` to ``end``, or `None` if its request does not ask. Empty if no request
    asks."""


Results = Callable[[], tuple[PrefillResult, Sequence[SlotToken]]]
"""Waits for a step that was started, and returns what `SlotEngine.advance` returns."""


class SlotEngine(abc.ABC):
    """A static batch whose rows are filled and stepped one by one.

    One thread calls it. The scheduler guarantees that a slot receives the chunks of one
    request in order and without gaps, then decode steps, then `release`; and that a
    request's prompt and new tokens never exceed `max_model_len`.
    """

    num_slots: int
    """Rows of the batch. Set once, in `__init__`."""

    max_model_len: int
    """Prompt and new tokens that a row holds. Set once, in `__init__`."""

    vocab_size: int
    """Every token id is below it. Set once, in `__init__`."""

    capabilities: Capabilities = Capabilities()
    """How the engine honours each field. Constant."""

    splits_prompts: bool = True
    """Whether several chunks may write one prompt. Constant.

    Otherwise one step computes a whole prompt, even one beyond the step's budget, and
    the rows that decode wait for it.
    """

    max_loras: int | None = None
    """Different adapters that rows may have at the same time; `None` for any number."""

    shortest_prefix: int | None = None
    """Tokens that a prompt must share with a row so that taking them over is faster
    than computing them; `None` for an engine that cannot. Constant.

    A row keeps its positions when its slot is released, until the slot has a new owner.
    """

    joins_steps: bool = False
    """Whether `advance` reads the weights once for prompts and steps, from now on.

    The scheduler then calls it where rows decode while prompts are to be written.
    """

    starts_ahead: bool = False
    """Whether `start` may be called while the results of the last step are not read.
    Constant.

    The scheduler then starts each step before it reads the tokens of the last one, so
    that the device does not wait for the host. A row that had ended is computed once
    more, and that token is dropped. Where a request has a grammar or bad words of
    several tokens, the scheduler reads first.
    """

    def check_request(self, request: EngineRequest) -> None:  # noqa: B027 - optional
        """Reject a request before it waits for a slot. The default accepts all.

        Raises:
            RequestError: The engine cannot serve the request.
        """

    @abc.abstractmethod
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        """Write prompt tokens into slots.

        A request's first chunk makes it the owner of the slot, where nothing of an
        earlier owner may show but the prefix that it takes over. Its last chunk samples
        the first new token. All other rows keep their state.

        Args:
            chunks: At least one, and at most one for each slot. Prefixes are taken over
                in this order: a later chunk may own the slot that an earlier one reads.
        """

    @abc.abstractmethod
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        """Sample one more token for each of *slots*, in their order.

        All other rows keep their state, also in the middle of a prompt.
        """

    def advance(
        self, chunks: Sequence[PromptChunk], slots: Sequence[int]
    ) -> tuple[PrefillResult, Sequence[SlotToken]]:
        """Write prompt tokens as `prefill` does, and decode other *slots*."""
        return self.prefill(chunks), self.decode(slots)

    def start(self, chunks: Sequence[PromptChunk], slots: Sequence[int]) -> Results:
        """Start what `advance` does, without waiting for it.

        The newest tokens of *slots* may be those of a step whose results are not read.
        Slots may be released, and have new owners, before the results are read. Results
        are read once, in the order of the steps, or not at all.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def release(self, slot: int) -> None:
        """Free a slot whose request ended or was aborted."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free all memory and devices. A second call does nothing."""
