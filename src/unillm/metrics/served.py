# SPDX-License-Identifier: Apache-2.0

"""`Served`: what happened to the requests of one model of a server.

Labels are bounded: models, reasons of the end, reasons of a refusal. No prompt, key,
user or request id is in one.
"""

from __future__ import annotations

from collections import Counter

from ..outputs import RequestOutput
from .histogram import (
    BETWEEN_TOKENS_S,
    COUNTS,
    FIRST_TOKEN_S,
    REQUEST_S,
    Histogram,
)


class Served:
    """Counters and histograms of one model. One thread writes them.

    Attributes:
        finished: Completions by the reason of their end.
        refused: Requests that were refused, by the status of the answer.
    """

    def __init__(self) -> None:
        self.finished: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.first_token = Histogram(FIRST_TOKEN_S)
        self.between_tokens = Histogram(BETWEEN_TOKENS_S)
        self.per_token = Histogram(BETWEEN_TOKENS_S)
        self.end_to_end = Histogram(REQUEST_S)
        self.of_prompt = Histogram(COUNTS)
        self.of_completion = Histogram(COUNTS)
        self.waited_steps = Histogram((0.0, *COUNTS))

    def ended(self, output: RequestOutput, now: float, *, failed: bool) -> None:
        """Count a request that has ended.

        Args:
            output: What it has generated.
            now: The clock of `time.monotonic`, in seconds.
            failed: Whether it ended with an error other than a cancellation.
        """
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens
        self.of_prompt.observe(len(output.prompt_token_ids))
        for each in output.outputs:
            reason = "error" if failed else each.finish_reason or "abort"
            self.finished[reason] += 1
            self.generation_tokens += len(each.token_ids)
            self.of_completion.observe(len(each.token_ids))
        metrics = output.metrics
        if metrics is None or failed:
            return
        if metrics.slots is not None:
            self.waited_steps.observe(metrics.slots.waited_steps)
        self.end_to_end.observe((metrics.last_token_ts or now) - metrics.queued_ts)
        if metrics.first_token_ts is None or metrics.last_token_ts is None:
            return
        self.first_token.observe(metrics.first_token_ts - metrics.queued_ts)
        later = max(len(each.token_ids) for each in output.outputs) - 1
        if later > 0:
            seconds = metrics.last_token_ts - metrics.first_token_ts
            self.per_token.observe(seconds / later)
