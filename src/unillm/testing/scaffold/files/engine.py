"""newengine, which schedules its requests itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unillm.backend import (
    Engine,
    EngineConfig,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    RequestSampler,
    TokenLogprobs,
    WaitingQueue,
    check_model_len,
    token_logprobs,
)
from unillm.testing.reference import ReferenceModel


class _Running:
    """A request that has begun."""

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.ids = list(request.prompt_token_ids)
        self.sampler = RequestSampler(request)

    @property
    def num_new(self) -> int:
        """New tokens so far."""
        return len(self.ids) - len(self.request.prompt_token_ids)


class NewengineEngine(Engine):
    """A model with a scheduler of its own."""

    def __init__(self, model: ReferenceModel, limits: EngineLimits) -> None:
        self._model = model
        self.limits = limits
        self._waiting = WaitingQueue()
        self._running: dict[str, _Running] = {}

    def add_request(self, request: EngineRequest) -> None:
        """Accept a request; a later `step` begins it."""
        self._waiting.push(request)

    def step(self) -> list[EngineOutput]:
        """Compute one token of each running request."""
        while self._waiting and len(self._running) < self.limits.max_num_seqs:
            request = self._waiting.pop()  # the most urgent, then the oldest
            self._running[request.request_id] = _Running(request)
        outputs = [self._next(running) for running in self._running.values()]
        for output in outputs:
            if output.finish_reason is not None:
                del self._running[output.request_id]
        return outputs

    def abort(self, request_ids: Iterable[str]) -> None:
        """Drop requests; unknown ids are ignored."""
        for request_id in request_ids:
            self._waiting.remove(request_id)
            self._running.pop(request_id, None)

    def has_unfinished(self) -> bool:
        """Return whether a request waits or runs."""
        return bool(self._waiting or self._running)

    def stats(self) -> dict[str, Any]:
        """Return counters; any thread may call it."""
        return {"running": len(self._running), "waiting": len(self._waiting)}

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._waiting = WaitingQueue()
        self._running.clear()

    def _next(self, running: _Running) -> EngineOutput:
        request, is_first = running.request, running.num_new == 0
        # Your engine computes the logits of all running requests at once here.
        logits = self._model.logits(running.ids)
        token = running.sampler.next(logits)
        if token.error is not None:
            return EngineOutput(
                request_id=request.request_id,
                finish_reason="error",
                error=token.error,
            )
        running.ids.append(token.token_id)
        stopped = token.token_id in request.stop_token_ids
        full = running.num_new == request.max_new_tokens
        return EngineOutput(
            request_id=request.request_id,
            token_ids=(token.token_id,),
            logprobs=None if token.logprobs is None else (token.logprobs,),
            prompt_logprobs=self._of_prompt(request) if is_first else None,
            finish_reason="stop" if stopped else "length" if full else None,
            stop_token_id=token.token_id if stopped else None,
        )

    def _of_prompt(self, request: EngineRequest) -> list[TokenLogprobs] | None:
        count, ids = request.params.prompt_logprobs, request.prompt_token_ids
        if count is None:
            return None
        return [
            token_logprobs(self._model.logits(ids[:index]), ids[index], count)
            for index in range(1, len(ids))
        ]


def load(config: EngineConfig) -> NewengineEngine:
    """Load a model."""
    model = ReferenceModel(config.path)
    check_model_len(config.max_model_len, positions=model.max_model_len)
    limits = EngineLimits(
        max_model_len=config.max_model_len or model.max_model_len,
        max_num_seqs=config.max_num_seqs or 8,
        vocab_size=model.vocab_size,
    )
    return NewengineEngine(model, limits)
