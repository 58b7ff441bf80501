# SPDX-License-Identifier: Apache-2.0

"""`SlotEngine`: a static batch whose rows can be filled and stepped one by one.

A backend implements it; `unillm.scheduling.slots.SlotScheduler` turns it into an
`Engine`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import attrs

from .base import Capabilities, EngineRequest, TokenLogprobs

DEFAULT_MAX_NUM_BATCHED_TOKENS = 2048
"""Prompt tokens computed in one step. It bounds how long decoding rows stand still."""


@attrs.frozen(kw_only=True)
class PromptChunk:
    """Prompt tokens ``start..end`` of a request, to be written into a slot."""

    slot: int
    request: EngineRequest
    start: int
    end: int

    @property
    def is_first(self) -> bool:
        """Whether the slot changes its owner with this chunk."""
        return self.start == 0

    @property
    def is_last(self) -> bool:
        """Whether the chunk ends the prompt, so that a first token follows from it."""
        return self.end == len(self.request.prompt_token_ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of this chunk."""
        return self.request.prompt_token_ids[self.start : self.end]


@attrs.frozen
class SlotToken:
    """One new token of one slot; or, with `error`, why the row has none."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


@attrs.frozen(kw_only=True)
class PrefillResult:
    """What a prefill gave."""

    tokens: Sequence[SlotToken | None]
    """One for each chunk, in their order; `None` where the prompt goes on."""
    padding: Sequence[int]
    """Padding positions computed, for each chunk."""
    prompt_logprobs: Sequence[Sequence[TokenLogprobs] | None] = ()
    """For each chunk whose request asked, those of the prompt tokens that its positions
    predict, ``start + 1`` to ``end``. May be left empty where no request did."""


class SlotEngine(abc.ABC):
    """A static batch whose rows can be filled and stepped one by one.

    Called from one thread. The scheduler guarantees that a slot sees the chunks of one
    request in order and without gaps, then decode steps, then `release`; and that
    prompt and new tokens of a request never exceed `max_model_len`.
    """

    num_slots: int
    """Rows of the batch. Set once, in `__init__`."""

    max_model_len: int
    """Prompt and new tokens that a row holds. Set once, in `__init__`."""

    vocab_size: int
    """Token ids are below it. Set once, in `__init__`."""

    capabilities: Capabilities = Capabilities()
    """The sampling fields that are honoured. Constant."""

    splits_prompts: bool = True
    """Whether a prompt may be written in several chunks. Constant.

    If not, a prompt longer than the budget of a step is computed in one step all the
    same, and the rows that decode wait as long.
    """

    max_loras: int | None = None
    """Different adapters that rows may have at a time; `None` for any number."""

    def check_request(self, request: EngineRequest) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuse what can be seen to fail, before the request waits for a slot.

        Raises:
            RequestError: It cannot be served.
        """

    @abc.abstractmethod
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        """Write prompt tokens into slots; at most one chunk a slot.

        The first chunk of a request makes it the slot's owner: nothing that an earlier
        owner left may be seen. The last one samples the first new token. Rows that are
        not named keep their state.
        """

    @abc.abstractmethod
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        """Sample one more token for each of *slots*, in their order.

        Other rows keep their state, those in the middle of a prompt among them.
        """

    @abc.abstractmethod
    def release(self, slot: int) -> None:
        """Forget the slot's owner: its request ended or was aborted."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free everything. Closing twice does nothing."""
