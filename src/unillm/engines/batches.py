# SPDX-License-Identifier: Apache-2.0

"""`BatchEngine`: the contract of an engine that only knows ``generate(batch)``.

Its rows begin together, and no request joins a batch that runs. A backend implements
it, and `unillm.scheduling.runs.RunScheduler` makes an `Engine` of it.

A *batch* is the rows that the engine computes together; a *run* is one
``generate(batch)`` from its prompts to its end.
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
    """Which positions an engine computes for the prompts of a batch."""

    PACKED = "packed"
    """The tokens of each prompt, without padding."""
    PADDED = "padded"
    """As many positions for every prompt as the longest one has."""
    STEPWISE = "stepwise"
    """As many tokens of every prompt as the shortest one has; each decode step of the
    run then feeds one more token of each longer prompt."""


@attrs.frozen(kw_only=True)
class BatchTraits:
    """How a batch engine's runs differ from each other, for the scheduler."""

    can_stop: bool = True
    """Whether `Run.close` ends a run at its next step. Otherwise it waits until the run
    ends, and the scheduler chooses each run's length in advance, from the known
    ``max_new_tokens`` alone."""
    prompt_work: PromptWork = PromptWork.PACKED
    """Which positions the engine computes for the prompts of a batch."""
    shared_context: bool = False
    """Whether the longest prompt of a run and the run's new tokens must fit
    `EngineLimits.max_model_len` together, because one buffer holds the whole batch. A
    run may then end before its rows do, and these continue in another run."""
    run_bound_fields: Mapping[str, str] = attrs.field(
        factory=lambda: MappingProxyType({})
    )
    """Sampling fields whose state is lost between two runs, with the reason. A request
    that uses one of them ends in the run in which it began."""


@attrs.frozen(kw_only=True)
class BatchRow:
    """One row of a run: a request, and its new tokens from earlier runs."""

    request: EngineRequest
    generated: tuple[int, ...] = ()
    """New tokens of earlier runs. Penalties, `min_tokens`, a grammar and the position
    in the sequence of random numbers continue from here."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """The prompt and `generated`, with which the run begins."""
        return self.request.prompt_token_ids + self.generated

    @property
    def max_new_tokens(self) -> int:
        """New tokens that the request may still have; at least 1."""
        return self.request.max_new_tokens - len(self.generated)


@attrs.frozen(kw_only=True)
class RowTokens:
    """The new tokens of one row, or the error that replaces them."""

    row: int
    """Index into the run's rows."""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] | None = None
    """One for each new token, if the request asks for them."""
    prompt_logprobs: Sequence[TokenLogprobs] | None = None
    """One for each prompt token but the first, with the first tokens of a row without
    `BatchRow.generated`, if the request asks for them."""
    error: str | None = None
    """Why the row has no token; its request fails, and the others continue."""


@attrs.frozen
class RunStep:
    """The news of a run."""

    rows: Sequence[RowTokens]
    """In any order. A row may be absent and receive its token later; the scheduler
    ignores tokens of a row that has ended."""
    num_steps: int = 1
    """Decode steps since the last `RunStep`. An engine that returns all tokens at the
    end yields one `RunStep` of many steps."""


class Run(Protocol):
    """**Protocol:** a run under way; a generator function makes one."""

    def __iter__(self) -> Run:
        """Return the run itself."""

    def __next__(self) -> RunStep:
        """Compute until there is news, and return it."""

    def close(self) -> None:
        """End the run and drop the rest of its tokens. A second call does nothing."""


class BatchEngine(abc.ABC):
    """An engine of static batches: rows begin together, and no request joins them.

    One thread calls it. A run ends or is closed before the next one begins. The
    scheduler guarantees that no row exceeds `limits`, where the new tokens of earlier
    runs count as prompt.
    """

    limits: EngineLimits
    """The numbers that the engine was created or built with. Set once, in `__init__`.

    `EngineLimits.max_num_seqs` is the number of rows of its largest batch.
    `EngineLimits.max_prompt_len` bounds the prompt together with the new tokens of
    earlier runs: a request that outgrows it ends in its present run.
    """

    traits: BatchTraits = BatchTraits()
    """How the engine runs a batch. Constant."""

    capabilities: Capabilities = Capabilities()
    """How the engine honours each field. Constant."""

    def group(self, request: EngineRequest) -> Hashable:
        """Return the options that all requests of one run must share.

        For an engine that takes some options once for the whole batch. By default any
        requests may run together.
        """
        del request
        return None

    def check_request(self, request: EngineRequest) -> None:
        """Reject a request before it waits for a row. The default accepts all.

        Raises:
            RequestError: The engine cannot serve the request.
        """
        del request

    @abc.abstractmethod
    def run(self, rows: Sequence[BatchRow], *, max_new_tokens: int) -> Run:
        """Begin a run that samples one new token a step for each of *rows*.

        A row ends with the first of its request's ``stop_token_ids``, which is its last
        token, or after `BatchRow.max_new_tokens`; the scheduler drops all tokens after
        that. The run ends when all rows have ended, and at the latest when each row has
        *max_new_tokens* tokens.

        Args:
            rows: At least one, and all of one `group`.
            max_new_tokens: New tokens of each row in this run; at least 1.
        """

    def end_row(self, row: int) -> None:
        """Note that a row of the run under way has ended or was aborted.

        For an engine that can stop computing the row. The default does nothing.
        """
        del row

    @abc.abstractmethod
    def close(self) -> None:
        """Free all memory and devices. A second call does nothing."""
