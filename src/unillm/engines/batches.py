# SPDX-License-Identifier: Apache-2.0

"""`BatchEngine`: a static batch whose rows begin together, and nothing joins them.

A backend implements it whose engine only knows ``generate(batch)``;
`unillm.scheduling.runs.RunScheduler` turns it into an `Engine`.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import attrs

from .base import Capabilities, EngineLimits, EngineRequest, TokenLogprobs


class PromptWork(enum.Enum):
    """How an engine computes the prompts of a batch."""

    PACKED = "packed"
    """Each prompt's own tokens and no more."""
    PADDED = "padded"
    """All prompts as long as the longest."""
    STEPWISE = "stepwise"
    """All prompts as far as the shortest; the rest of each goes in with the decode
    steps of the others, a token a step."""


@attrs.frozen(kw_only=True)
class BatchTraits:
    """What a batch engine cannot do, or does its own way: data for the scheduler."""

    can_stop: bool = True
    """Closing a run ends it at its next step. If not, closing waits for its end, and
    how long a run goes on is decided when it begins, from the known lengths alone."""
    fixed_batch: bool = False
    """A run always has `EngineLimits.max_num_seqs` rows; the scheduler adds rows whose
    tokens nobody reads."""
    prompt_work: PromptWork = PromptWork.PACKED
    """How the prompts of a batch are computed."""
    shared_context: bool = False
    """The longest prompt of a run and the run's tokens fit `EngineLimits.max_model_len`
    together, as where one buffer of a common shape holds the whole batch. A run may
    then end before all of its rows do, and they go on in another one."""
    run_bound_fields: Mapping[str, str] = attrs.field(
        factory=lambda: MappingProxyType({})
    )
    """Sampling fields whose state would begin anew with another run, and why. A request
    that uses one is never stopped: it ends in the run in which it began."""


@attrs.frozen(kw_only=True)
class BatchRow:
    """One row of a run: a request, and how far earlier runs brought it."""

    request: EngineRequest
    generated: tuple[int, ...] = ()
    """Its new tokens of earlier runs. Penalties, `min_tokens`, a grammar and the
    position in the sequence of random numbers go on from here."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """What the run begins with."""
        return self.request.prompt_token_ids + self.generated

    @property
    def max_new_tokens(self) -> int:
        """Tokens that the request may still get; at least 1."""
        return self.request.max_new_tokens - len(self.generated)


@attrs.frozen(kw_only=True)
class RowTokens:
    """What a step gave one row."""

    row: int
    """Place in the run's rows."""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] | None = None
    """One for each id, if the request asked."""
    prompt_logprobs: Sequence[TokenLogprobs] | None = None
    """With the first tokens of a row without `BatchRow.generated`, if the request
    asked; one for each prompt token but the first."""
    error: str | None = None
    """Why the row has no token and will get none."""


@attrs.frozen
class RunStep:
    """What a run has to tell."""

    rows: Sequence[RowTokens]
    """In any order. A row may be missing, where it gets its token later; a row that
    has ended may still be told of, and nobody listens."""
    num_steps: int = 1
    """Decode steps since the last time. An engine that tells everything at the end has
    one `RunStep`, of many steps."""


class Run(Protocol):
    """**Protocol:** a run under way. A generator function makes one."""

    def __iter__(self) -> Run:
        """Return itself."""

    def __next__(self) -> RunStep:
        """Compute until there is something to tell."""

    def close(self) -> None:
        """End the run; what it had not told is lost. Closing twice does nothing."""


class BatchEngine(abc.ABC):
    """A static batch: rows begin together, and nothing joins them.

    Called from one thread. There is one run at a time: it came to its end or was closed
    before the next one begins. The scheduler guarantees that no row exceeds `limits`,
    counting what it generated in earlier runs as prompt.
    """

    limits: EngineLimits
    """The numbers that the engine was created or built with. Set once, in `__init__`.

    `EngineLimits.max_num_seqs` is the number of rows of its largest batch.
    `EngineLimits.max_prompt_len` holds for the prompt together with the tokens that
    earlier runs generated: a request that has outgrown it ends in its present run.
    """

    traits: BatchTraits = BatchTraits()
    """The abilities that the engine lacks. Constant."""

    capabilities: Capabilities = Capabilities()
    """The sampling fields that are honoured. Constant."""

    def group(self, request: EngineRequest) -> Hashable:
        """Return what the requests of one run have to have in common.

        For an engine that takes some options once for a whole batch.
        """
        del request
        return None

    def check_request(self, request: EngineRequest) -> None:
        """Refuse a request that the engine cannot serve, before it waits.

        Raises:
            RequestError: Says why.
        """
        del request

    @abc.abstractmethod
    def run(self, rows: Sequence[BatchRow], *, max_new_tokens: int) -> Run:
        """Begin a run: one new token a step for each of *rows*.

        A row ends with the first id of its request's ``stop_token_ids``, which is its
        last token, or after `BatchRow.max_new_tokens`; the scheduler ends it there
        whatever the engine does. The run ends when all rows have, and after
        *max_new_tokens* tokens of each row at the latest.

        Args:
            rows: At least one. They share what `group` says.
            max_new_tokens: Tokens that the run may give each row; at least 1.
        """

    def end_row(self, row: int) -> None:
        """Take notice that nobody wants more of a row of the run under way.

        It has ended, or its request was aborted. For an engine that can then save the
        row's work; the default does nothing.
        """
        del row

    @abc.abstractmethod
    def close(self) -> None:
        """Free everything. Closing twice does nothing."""
