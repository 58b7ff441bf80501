# SPDX-License-Identifier: Apache-2.0

"""`Completion`: one completion of a request, built from an engine's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import attrs

from ..outputs import (
    CompletionDelta,
    CompletionOutput,
    FinishReason,
    FlatLogprobs,
    Logprob,
    SlotMetrics,
)
from ..text.detokenizer import Detokenizer, decode_token

if TYPE_CHECKING:
    from ..engines.base import EngineOutput, EngineRequest, TokenLogprobs
    from ..lora import LoRARequest
    from ..text.tokenizer import Tokenizer


class Extent(NamedTuple):
    """How much of a completion exists, or how much a reader has seen."""

    chars: int = 0
    tokens: int = 0
    ended: bool = False


@attrs.define(eq=False, kw_only=True)
class Completion:
    """The state of one completion. The driver's thread alone writes it."""

    request: EngineRequest
    index: int
    tokenizer: Tokenizer
    primary_eos: int
    """Id of the EOS token that is reported without a `stop_reason`."""
    lora_request: LoRARequest | None = None
    """The adapter as the caller named it."""
    text: str = ""
    token_ids: list[int] = attrs.field(factory=list)
    logprobs: list[dict[int, Logprob]] | FlatLogprobs | None = None
    cumulative_logprob: float | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | FlatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    slots: SlotMetrics | None = None
    _detokenizer: Detokenizer | None = None
    """From the first new token to the end; a waiting request needs none."""

    # ----------------------------------------------------------------------- reading

    def output(self) -> CompletionOutput:
        """Return a copy of the state that later tokens do not change."""
        return CompletionOutput(
            index=self.index,
            text=self.text,
            token_ids=list(self.token_ids),
            cumulative_logprob=self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[:],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            lora_request=self.lora_request,
        )

    def extent(self) -> Extent:
        """Return how much exists now."""
        ended = self.finish_reason is not None
        return Extent(len(self.text), len(self.token_ids), ended)

    def delta(self, since: Extent) -> CompletionDelta:
        """Return the part that was added after *since*."""
        logprobs = self.logprobs
        return CompletionDelta(
            index=self.index,
            text=self.text[since.chars :],
            token_ids=self.token_ids[since.tokens :],
            logprobs=None if logprobs is None else logprobs[since.tokens :],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    # ----------------------------------------------------------------------- writing

    def write(self, output: EngineOutput) -> None:
        """Add an engine's output: token ids, text, log-probabilities, the end.

        A stop string ends the completion here, before the engine knows of it.
        """
        self.num_cached_tokens = output.num_cached_tokens
        self.slots = output.slots
        if output.prompt_logprobs is not None:
            self._write_prompt_logprobs(output.prompt_logprobs)
        detokenizer = self._detokenizer
        if detokenizer is None:
            detokenizer = self._detokenizer = self._new_detokenizer()
        token_ids = output.token_ids
        logprobs = None if output.logprobs is None else iter(output.logprobs)
        stopped = output.stop_token_id is not None and len(token_ids) > 0
        for token_id in token_ids[:-1] if stopped else token_ids:
            self.token_ids.append(token_id)
            if logprobs is not None:
                self._write_logprobs(token_id, next(logprobs))
            new = detokenizer.push(token_id)
            if new:
                # The only reference, so that Python extends the string where it is.
                text, self.text = self.text, ""
                text += new
                self.text = text
            if detokenizer.matched_stop is not None:
                self._stop(detokenizer.matched_stop)
                return
        if stopped:
            token_id = token_ids[-1]
            self.token_ids.append(token_id)
            if logprobs is not None:
                self._write_logprobs(token_id, next(logprobs))
            self.text += detokenizer.finish(stop_token_id=token_id)
            # The text of a kept stop token may complete a stop string, which wins.
            self._stop(detokenizer.matched_stop or self._reported(token_id))
        elif output.finish_reason is not None:
            self.text += detokenizer.finish()
            self._end(output.finish_reason)

    def _new_detokenizer(self) -> Detokenizer:
        return Detokenizer(
            self.tokenizer,
            prompt_token_ids=self.request.prompt_token_ids,
            params=self.request.params,
        )

    def _stop(self, reason: int | str | None) -> None:
        self.stop_reason = reason
        self._end("stop")

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self._detokenizer = None

    def _reported(self, token_id: int) -> int | None:
        """Return the `stop_reason` of a stop token; as in vLLM, the EOS has none."""
        own = token_id == self.primary_eos and not self.request.params.ignore_eos
        return None if own else token_id

    def _write_logprobs(self, token_id: int, at: TokenLogprobs) -> None:
        if self.logprobs is None:
            flat = self.request.params.flat_logprobs
            self.logprobs = FlatLogprobs() if flat else []
        self.cumulative_logprob = (self.cumulative_logprob or 0.0) + at.logprob
        labels = self.request.logprob_token_ids is not None
        make = self._labels if labels else self._entries
        self.logprobs.append(make(token_id, at))

    def _write_prompt_logprobs(self, logprobs: Sequence[TokenLogprobs]) -> None:
        ids = self.request.prompt_token_ids[1:]
        self.prompt_logprobs = (
            FlatLogprobs() if self.request.params.flat_logprobs else []
        )
        self.prompt_logprobs.append(None)  # nothing predicts the first token
        self.prompt_logprobs.extend(
            self._entries(*each) for each in zip(ids, logprobs, strict=True)
        )

    def _labels(self, token_id: int, at: TokenLogprobs) -> dict[int, Logprob]:
        """Return the token's own entry and those of `logprob_token_ids`."""
        entries = {token_id: self._logprob(token_id, at.logprob, at.rank)}
        known = dict(zip(at.top_ids, at.top_logprobs, strict=True))
        for label in self.request.logprob_token_ids or ():
            if label != token_id:
                entries[label] = self._logprob(label, known[label], None)
        return entries

    def _entries(self, token_id: int, at: TokenLogprobs) -> dict[int, Logprob]:
        """Return the token's own entry and then those of the most probable tokens."""
        entries = {token_id: self._logprob(token_id, at.logprob, at.rank)}
        tops = zip(at.top_ids, at.top_logprobs, strict=True)
        for rank, (top_id, logprob) in enumerate(tops, start=1):
            # As in vLLM, so that tokens as probable as each other have different ranks.
            value = at.logprob if top_id == token_id else logprob
            entries[top_id] = self._logprob(top_id, value, rank)
        return entries

    def _logprob(self, token_id: int, logprob: float, rank: int | None) -> Logprob:
        as_text = self.request.params.detokenize
        text = decode_token(self.tokenizer, token_id) if as_text else None
        return Logprob(logprob, rank, text)
