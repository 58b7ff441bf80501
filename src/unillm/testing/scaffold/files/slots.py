"""newengine in slots: rows that are filled and stepped one by one."""

from __future__ import annotations

from collections.abc import Sequence

from unillm.backend import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    EngineConfig,
    PrefillResult,
    PromptChunk,
    RequestSampler,
    SlotEngine,
    SlotScheduler,
    SlotToken,
    TokenLogprobs,
    check_model_len,
    token_logprobs,
)
from unillm.testing.reference import ReferenceModel


class NewengineEngine(SlotEngine):
    """A model in rows."""

    def __init__(
        self, model: ReferenceModel, *, num_slots: int, max_model_len: int
    ) -> None:
        self._model = model
        self.num_slots = num_slots
        self.max_model_len = max_model_len
        self.vocab_size = model.vocab_size
        self._ids: list[list[int]] = [[] for _ in range(num_slots)]
        self._samplers: dict[int, RequestSampler] = {}

    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        """Write prompt tokens; the last chunk of a prompt has the first new token."""
        tokens: list[SlotToken | None] = []
        for chunk in chunks:
            if chunk.is_first:
                self._ids[chunk.slot] = []
                self._samplers[chunk.slot] = RequestSampler(chunk.request)
            self._ids[chunk.slot] += chunk.token_ids
            tokens.append(self._next(chunk.slot) if chunk.is_last else None)
        return PrefillResult(
            tokens=tokens,
            padding=[0] * len(chunks),
            prompt_logprobs=[self._of_prompt(chunk) for chunk in chunks],
        )

    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        """Sample one more token for each of *slots*."""
        return [self._next(slot) for slot in slots]

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._ids[slot] = []
        self._samplers.pop(slot, None)

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._samplers.clear()

    def _next(self, slot: int) -> SlotToken:
        # Your engine computes the logits here, best for all rows of a step at once.
        logits = self._model.logits(self._ids[slot])
        token = self._samplers[slot].next(logits)
        self._ids[slot].append(token.token_id)
        return token

    def _of_prompt(self, chunk: PromptChunk) -> list[TokenLogprobs] | None:
        count, prompt = chunk.request.params.prompt_logprobs, chunk.request
        if count is None:
            return None
        ids = prompt.prompt_token_ids
        return [
            token_logprobs(self._model.logits(ids[:index]), ids[index], count)
            for index in range(chunk.start + 1, min(chunk.end + 1, len(ids)))
        ]


def load(config: EngineConfig) -> SlotScheduler:
    """Load a model, and give its rows continuous batching."""
    model = ReferenceModel(config.path)
    check_model_len(config.max_model_len, positions=model.max_model_len)
    engine = NewengineEngine(
        model,
        num_slots=config.max_num_seqs or 8,
        max_model_len=config.max_model_len or model.max_model_len,
    )
    budget = config.max_num_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS
    return SlotScheduler(engine, max_num_batched_tokens=budget)
