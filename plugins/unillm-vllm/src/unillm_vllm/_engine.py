# SPDX-License-Identifier: Apache-2.0

"""vLLM's engine core as an engine of unillm: token ids in, token ids out.

vLLM sees neither text nor its own EOS tokens: the core passes those as stop ids, so
that a request ends by the same rules on every engine. `LLMEngine` checks and prepares
requests. This module reads the outputs of its engine core; the `step` of `LLMEngine`
would make an object for each token, only to be unpacked here.

Invariants: one thread calls the engine (vLLM's is not thread-safe); an aborted request
leaves nothing queued; unfinished requests are known by id, so nothing calls `step` on
an idle engine, where a multi-process vLLM would block; when a process of the engine
dies, a waiting `step` raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from unillm.backend import (
    Capabilities,
    Capability,
    Engine,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    TokenLogprobs,
    give_back,
)
from unillm.errors import (
    EngineDeadError,
    EngineError,
    EngineOutOfMemoryError,
    InvalidParameterError,
)

from ._compat import refusals
from ._errors import is_out_of_memory
from ._lora import NOTHING_ID

if TYPE_CHECKING:
    from vllm import LLMEngine
    from vllm.v1.engine import EngineCoreOutput

    from unillm.backend import FinishReason

    from ._lora import NoAdapter
    from ._processes import EngineProcesses
    from ._shared import Alone
    from ._threads import OmpThreads

SHUTDOWN_TIMEOUT_S = 30
"""vLLM's default is 5 s; on a CPU, its processes took up to 9 s to end."""


class VllmEngine(Engine):
    """A running `LLMEngine`.

    Args:
        engine: Loaded; closed by `close`.
        processes: The processes of the engine, if any.
        alone: Its share of vLLM's global state.
        threads: The threads with which it computes in this process, on a CPU.
        unsupported: Fields that it does not have, with the reasons.
        spells_exactly: `VllmGuidance.spells_exactly` of its tokenizer.
        no_adapter: The adapter of requests without one, where vLLM needs it.
    """

    def __init__(
        self,
        engine: LLMEngine,
        *,
        processes: EngineProcesses,
        alone: Alone,
        threads: OmpThreads | None,
        unsupported: Mapping[str, Capability],
        spells_exactly: bool,
        no_adapter: NoAdapter | None,
    ) -> None:
        from ._params import lora_request, sampling_params

        self._engine = engine
        self._processes = processes
        self._alone = alone
        self._threads = threads
        self.capabilities = Capabilities(fields=unsupported)
        config = engine.vllm_config
        self.limits = EngineLimits(
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            vocab_size=config.model_config.get_vocab_size(),
        )
        self._sampling_params = partial(sampling_params, spells_exactly=spells_exactly)
        self._lora_request = lora_request
        self._no_adapter = no_adapter
        self._refusals = refusals()
        self._live: dict[str, _Live] = {}  # by vLLM's id
        self._ids: dict[str, str] = {}  # ours to vLLM's
        self._adapters: set[int] = set()
        self._closed = False
        self._ended = False  # a process has, before `close`
        processes.watch(self._wake)

    @override
    def add_request(self, request: EngineRequest) -> None:
        _refuse_impossible(request)
        with self._alone.lock:
            try:
                prepared = self._engine.input_processor.process_inputs(
                    request.request_id,
                    _prompt(request),
                    self._sampling_params(request),
                    supported_tasks=self._engine.get_supported_tasks(),
                    lora_request=self._adapter(request),
                    priority=request.priority,
                )
                # A new id, so that late outputs of an aborted request are ignored.
                self._engine.input_processor.assign_request_id(prepared)
                self._engine.engine_core.add_request(prepared)
            except InvalidParameterError:
                raise
            except self._refusals as error:
                raise InvalidParameterError(
                    f"vLLM refused the request: {error}",
                    parameter=getattr(error, "parameter", None) or "params",
                    value=getattr(error, "value", None),
                ) from error
        self._live[prepared.request_id] = _Live(request)
        self._ids[request.request_id] = prepared.request_id

    def _adapter(self, request: EngineRequest) -> Any:
        """Load a request's adapter: a step that fails to load one would be fatal."""
        own = request.lora_request
        if own is None and self._no_adapter is not None:
            own = self._no_adapter.request
        elif own is not None and own.lora_int_id == NOTHING_ID:
            raise InvalidParameterError(
                f"lora_int_id={NOTHING_ID} is taken. Give the adapter another one.",
                parameter="lora_request",
                value=own,
            )
        named = self._lora_request(own)
        if own is None or own.lora_int_id in self._adapters:
            return named
        try:
            self._engine.add_lora(named)
        except Exception as error:
            if self._processes.ended():
                raise
            raise InvalidParameterError(
                f"vLLM cannot load the adapter {own.lora_name!r} of {own.lora_path}: "
                f"{error}",
                parameter="lora_request",
                value=own,
            ) from error
        self._adapters.add(own.lora_int_id)
        return named

    @override
    def step(self) -> list[EngineOutput]:
        with self._alone.lock:
            try:
                received = self._engine.engine_core.get_output().outputs
            except Exception as error:
                raise self._death(error) from error
        outputs = []
        for each in received:
            live = self._live.get(each.request_id)
            if live is None:
                continue  # aborted
            output = live.output(each)
            if output is None:
                continue
            outputs.append(output)
            if output.finish_reason is not None:
                del self._live[each.request_id]
                del self._ids[output.request_id]
        return outputs

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        found = [self._ids.pop(each, None) for each in request_ids]
        known = [each for each in found if each is not None]
        for each in known:
            del self._live[each]
        if known:
            with self._alone.lock:
                self._engine.engine_core.abort_requests(known)

    @override
    def has_unfinished(self) -> bool:
        return bool(self._live)

    @override
    def stats(self) -> Mapping[str, Any]:
        cache = self._engine.vllm_config.cache_config
        dtype = self._engine.vllm_config.model_config.dtype
        return {
            "dtype": str(dtype).removeprefix("torch."),
            "unfinished": len(self._live),
            "cache_blocks": cache.num_gpu_blocks,
            "cache_block_size": cache.block_size,
            "processes": self._processes.count(),
        }

    @override
    def death(self) -> Exception | None:
        if not self._ended:
            return None
        return self._death(EngineDeadError("a process of vLLM's engine has ended"))

    @override
    def kill(self) -> None:
        self._processes.kill()

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._processes.close()
        self._alone.leave(self._shut_down)
        if self._threads is not None:
            self._threads.restore()
            give_back()
        if self._no_adapter is not None:
            self._no_adapter.close()

    def _shut_down(self) -> None:
        self._engine.engine_core.shutdown(timeout=SHUTDOWN_TIMEOUT_S)

    # -------------------------------------------------------------------------- death

    def _wake(self) -> None:
        """Make calls raise that wait for a process which has died.

        vLLM raises in the next call only; a waiting one would wait for ever: a `step`
        for outputs, or the loading of an adapter for its answer.
        """
        self._ended = True
        core = self._engine.engine_core
        death = EngineDeadError("a process of vLLM's engine has ended")
        for answer in list(getattr(core, "utility_results", {}).values()):
            with suppress(InvalidStateError):  # it was answered meanwhile
                answer.set_exception(death)
        queue = getattr(core, "outputs_queue", None)
        if queue is not None:
            queue.put_nowait(death)

    def _death(self, error: Exception) -> EngineError:
        """Return the error for a step that raised."""
        causes = f"{type(error).__name__}: {error}"
        if self._processes.count():
            causes = self._processes.obituary()
        if is_out_of_memory(causes):
            return EngineOutOfMemoryError(f"vLLM ran out of memory in a step: {causes}")
        return EngineDeadError(f"vLLM's engine died: {causes}")


class _Live:
    """A request that vLLM works on."""

    def __init__(self, request: EngineRequest) -> None:
        self._request_id = request.request_id
        self._num_cached_tokens = 0
        params = request.params
        self._num_logprobs = params.logprobs
        self._num_prompt_logprobs = params.prompt_logprobs
        self._plain = params.logprobs is None and params.prompt_logprobs is None
        self._prompt_logprobs: list[TokenLogprobs] | None = (
            None if params.prompt_logprobs is None else []
        )

    def output(self, received: EngineCoreOutput) -> EngineOutput | None:
        """Return the new part of an output, or `None` if it has none for the core."""
        if received.prefill_stats is not None:
            self._num_cached_tokens = received.prefill_stats.num_cached_tokens
        token_ids = received.new_token_ids
        finish_reason = received.finish_reason
        if self._plain and finish_reason is None:
            if not token_ids:
                return None
            return EngineOutput(
                request_id=self._request_id,
                token_ids=token_ids,
                num_cached_tokens=self._num_cached_tokens,
            )
        if received.new_prompt_logprobs_tensors is not None:  # of a chunk of the prompt
            assert self._prompt_logprobs is not None
            self._prompt_logprobs += _read_logprobs(
                received.new_prompt_logprobs_tensors, self._num_prompt_logprobs
            )
        if finish_reason is None and not token_ids:
            return None
        reason = None if finish_reason is None else str(finish_reason)
        prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        logprobs = None
        if self._num_logprobs is not None and received.new_logprobs is not None:
            logprobs = _read_logprobs(received.new_logprobs, self._num_logprobs)
        return EngineOutput(
            request_id=self._request_id,
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            finish_reason=cast("FinishReason | None", reason),
            stop_token_id=token_ids[-1] if reason == "stop" else None,
            error="vLLM failed on it; see its log" if reason == "error" else None,
            num_cached_tokens=self._num_cached_tokens,
        )


def _read_logprobs(received: Any, asked: int | None) -> list[TokenLogprobs]:
    """Read vLLM's arrays: a row has the token itself first, then the best ones.

    Rows are as wide as the widest request of the step.
    """
    ids, logprobs, ranks, *_ = received
    end = None if asked in (None, -1) else asked + 1
    return [
        TokenLogprobs(
            logprob=values[0], rank=rank, top_ids=row[1:end], top_logprobs=values[1:end]
        )
        for row, values, rank in zip(
            ids.tolist(), logprobs.tolist(), ranks.tolist(), strict=True
        )
    ]


def _prompt(request: EngineRequest) -> dict[str, Any]:
    """Return the prompt in vLLM's form."""
    # A real list: vLLM's in-process engine chokes on a tuple.
    ids = list(request.prompt_token_ids)
    prompt = {"type": "token", "prompt_token_ids": ids}
    if request.cache_salt is not None:
        prompt["cache_salt"] = request.cache_salt
    return prompt


def _refuse_impossible(request: EngineRequest) -> None:
    """Refuse a request that forbids every token; vLLM would sample one all the same.

    Raises:
        InvalidParameterError: Its fields contradict each other.
    """
    params = request.params
    if params.allowed_token_ids is None:
        return
    banned = {ids[0] for ids in request.bad_words_token_ids if len(ids) == 1}
    if params.min_tokens:
        banned |= request.stop_token_ids
    if banned.issuperset(params.allowed_token_ids):
        raise InvalidParameterError(
            f"allowed_token_ids={list(params.allowed_token_ids)} leaves no token: "
            "bad_words, or min_tokens before an EOS token, forbid each of them. Allow "
            "another one.",
            parameter="allowed_token_ids",
            value=params.allowed_token_ids,
        )
