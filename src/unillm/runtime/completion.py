# SPDX-License-Identifier: Apache-2.0

"""`Completion`: the state of one of a request's completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ..outputs import CompletionOutput, FinishReason, Logprob, SlotMetrics

if TYPE_CHECKING:
    from ..engines.base import EngineRequest
    from ..text.detokenizer import Detokenizer


@attrs.define(eq=False)
class Completion:
    """The state of one of a request's completions. Written by the driver alone."""

    request: EngineRequest
    detokenizer: Detokenizer
    index: int
    text: str = ""
    token_ids: list[int] = attrs.field(factory=list)
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    slots: SlotMetrics | None = None

    def output(self) -> CompletionOutput:
        """Copy the state into a value that does not change any more."""
        return CompletionOutput(
            index=self.index,
            text=self.text,
            token_ids=list(self.token_ids),
            cumulative_logprob=self.cumulative_logprob,
            logprobs=None if self.logprobs is None else list(self.logprobs),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )
