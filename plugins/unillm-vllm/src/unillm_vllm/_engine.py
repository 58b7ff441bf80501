# SPDX-License-Identifier: Apache-2.0

"""vLLM's `LLMEngine` as an engine of unillm: token ids in, token ids out.

vLLM never sees text here, nor its own end ids: the core resolves those and passes them
as stop ids, so that a request ends by the same rules on every engine.

What holds: the engine is called from one thread (vLLM's is not safe from several); an
aborted request leaves nothing queued; everything unfinished is known by id, so `step`
is never called on an idle engine, where it would block in a multi-process vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.engines.base import (
    Engine,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    TokenLogprobs,
)
from unillm.errors import InvalidParameterError

if TYPE_CHECKING:
    from vllm import LLMEngine
    from vllm.outputs import CompletionOutput, RequestOutput

SHUTDOWN_TIMEOUT_S = 30
"""vLLM kills its processes after 5 s by default; a clean end took 7 to 9 s on a CPU."""


class VllmEngine(Engine):
    """A running `LLMEngine`.

    Args:
        engine: Loaded, without a tokenizer; closed by this object.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._unfinished: dict[str, EngineRequest] = {}
        self._closed = False

    @property
    @override
    def limits(self) -> EngineLimits:
        config = self._engine.vllm_config
        return EngineLimits(
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            vocab_size=config.model_config.get_vocab_size(),
        )

    @override
    def add_request(self, request: EngineRequest) -> None:
        from vllm.exceptions import VLLMClientError

        try:
            self._engine.add_request(
                request.request_id,
                # A real list: vLLM's in-process engine chokes on a tuple and keeps a
                # ghost of the request.
                {"prompt_token_ids": list(request.prompt_token_ids)},
                sampling_params(request),
                priority=request.priority,
            )
        except VLLMClientError as error:
            raise InvalidParameterError(
                f"vLLM refused the request: {error}",
                parameter=getattr(error, "parameter", None) or "params",
                value=getattr(error, "value", None),
            ) from error
        self._unfinished[request.request_id] = request

    @override
    def step(self) -> list[EngineOutput]:
        outputs = [
            self._output(output)
            for output in self._engine.step()
            if output.request_id in self._unfinished
        ]
        for output in outputs:
            if output.finish_reason is not None:
                del self._unfinished[output.request_id]
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        known = [each for each in request_ids if self._unfinished.pop(each, None)]
        if known:
            self._engine.abort_request(known)

    @override
    def has_unfinished(self) -> bool:
        return bool(self._unfinished)

    @override
    def stats(self) -> Mapping[str, Any]:
        return {"unfinished": len(self._unfinished)}

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.engine_core.shutdown(timeout=SHUTDOWN_TIMEOUT_S)

    def _output(self, output: RequestOutput) -> EngineOutput:
        [completion] = output.outputs
        request = self._unfinished[output.request_id]
        token_ids = tuple(completion.token_ids)
        stopped = completion.finish_reason == "stop"
        return EngineOutput(
            request_id=output.request_id,
            token_ids=token_ids,
            logprobs=_logprobs(completion, request),
            finish_reason=completion.finish_reason,
            stop_token_id=token_ids[-1] if stopped else None,
            num_cached_tokens=output.num_cached_tokens or 0,
        )


def sampling_params(request: EngineRequest) -> Any:
    """Say a request's sampling in vLLM's words.

    Ends are the core's: the stop ids are complete, so vLLM ignores its own EOS, and
    stop strings and detokenising stay with the core.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = request.params
    return SamplingParams(
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=request.seed,
        stop_token_ids=sorted(request.stop_token_ids),
        ignore_eos=True,
        max_tokens=request.max_new_tokens,
        min_tokens=params.min_tokens,
        logprobs=params.logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _logprobs(
    completion: CompletionOutput, request: EngineRequest
) -> list[TokenLogprobs] | None:
    if completion.logprobs is None:
        return None
    asked = request.params.logprobs
    told = []
    for token_id, entries in zip(
        completion.token_ids, completion.logprobs, strict=True
    ):
        own = entries[token_id]
        ranked = sorted(entries.items(), key=lambda item: item[1].rank or 0)
        top = ranked if asked == -1 else ranked[:asked]
        told.append(
            TokenLogprobs(
                logprob=own.logprob,
                rank=own.rank or 1,
                top_ids=[each for each, _ in top],
                top_logprobs=[entry.logprob for _, entry in top],
            )
        )
    return told
