# SPDX-License-Identifier: Apache-2.0

"""The LLM API: ``LLM``, ``SamplingParams`` and its results (§2, §3)."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import queue
import threading
import time
from pathlib import Path

from transformers import AutoConfig

from . import calls, engine_dir
from .model import STEP_S, Sampling, Sequence
from .profiles import current


class RequestError(RuntimeError):
    """A failure of one request (§2.5)."""


# ------------------------------------------------------------------------ parameters

_NEW_NAMES = {
    "max_tokens": ("max_new_tokens", 32),
    "min_tokens": ("min_length", None),
    "seed": ("random_seed", None),
}
_FIELDS = {
    "end_id": None,
    "pad_id": None,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "repetition_penalty": None,
    "presence_penalty": None,
    "frequency_penalty": None,
    "stop": None,
    "stop_token_ids": None,
    "bad": None,
    "bad_token_ids": None,
    "ignore_eos": False,
    "exclude_input_from_output": True,
    "detokenize": True,
    "embedding_bias": None,
}
_LATER_FIELDS = {
    "n": 1,
    "best_of": None,
    "use_beam_search": False,
    "min_p": None,
    "include_stop_str_in_output": False,
    "logprobs": None,
    "prompt_logprobs": None,
    "truncate_prompt_tokens": None,
    "guided_decoding": None,
}


def make_sampling_params():
    """Make the class of the current profile: keyword-only, with slots, strict."""
    profile = current()
    fields = dict(_FIELDS)
    for new, (old, default) in _NEW_NAMES.items():
        fields[old if profile.old_names else new] = default
    if not profile.hlapi:
        fields |= _LATER_FIELDS
    return dataclasses.make_dataclass(
        "SamplingParams",
        [(n, object, dataclasses.field(default=d)) for n, d in fields.items()],
        kw_only=True,
        slots=True,
    )


def _value(params, name):
    old, _ = _NEW_NAMES[name]
    return getattr(params, old if current().old_names else name)


class KvCacheConfig:
    """Strict: an unknown field is refused (§2.2)."""

    _FIELDS = frozenset(
        {
            "enable_block_reuse",
            "max_tokens",
            "free_gpu_memory_fraction",
            "host_cache_size",
            "dtype",
            "tokens_per_block",
        }
    )

    def __init__(self, **fields):
        if unknown := fields.keys() - self._FIELDS:
            raise ValueError(f"KvCacheConfig: extra fields {sorted(unknown)}")
        self.fields = fields


@dataclasses.dataclass(kw_only=True)
class BuildConfig:
    max_input_len: int = 1024
    max_seq_len: int | None = None
    opt_batch_size: int = 8
    max_batch_size: int = 2048
    max_beam_width: int = 1
    max_num_tokens: int = 8192


@dataclasses.dataclass(kw_only=True)
class QuantConfig:
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None


class QuantAlgo:
    FP8 = "FP8"
    W8A16 = "W8A16"
    W4A16 = "W4A16"
    W4A16_AWQ = "W4A16_AWQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    W8A8_SQ_PER_CHANNEL = "W8A8_SQ_PER_CHANNEL"


def _decoding_config(name, *fields):
    return dataclasses.make_dataclass(
        name, [(field, object, dataclasses.field(default=None)) for field in fields]
    )


NGramDecodingConfig = _decoding_config("NGramDecodingConfig", "max_draft_len")
DraftTargetDecodingConfig = _decoding_config(
    "DraftTargetDecodingConfig", "max_draft_len", "speculative_model"
)
Eagle3DecodingConfig = _decoding_config(
    "Eagle3DecodingConfig", "max_draft_len", "speculative_model"
)


# --------------------------------------------------------------------------- results


@dataclasses.dataclass(slots=True)
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list = dataclasses.field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclasses.dataclass
class _Response:
    token_ids: list
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    last: bool = False


class RequestOutput:
    """A future; iterating yields this same object, cumulative (§2.4)."""

    def __init__(self, llm, request_id, prompt, params):
        self.request_id = request_id
        self.prompt = None
        self.prompt_token_ids = prompt
        self.outputs = [CompletionOutput()]
        self.finished = False
        self._llm = llm
        self._params = params
        self._aborted = False
        self._queue = queue.SimpleQueue()
        try:
            self._loop = asyncio.get_running_loop()
            self._aqueue = asyncio.Queue()
        except RuntimeError:
            self._loop = self._aqueue = None

    def _push(self, response):
        if self._aqueue is None:
            self._queue.put(response)
        else:
            self._loop.call_soon_threadsafe(self._aqueue.put_nowait, response)

    def _take(self, response):
        if response.error is not None:
            self.finished = True
            raise RequestError(response.error)
        [completion] = self.outputs
        completion.token_ids = response.token_ids
        self.finished = response.last
        if response.last and current().finish_reasons:
            completion.finish_reason = response.finish_reason
            completion.stop_reason = response.stop_reason

    def result(self, timeout=None):
        """Block to the end; the timeout is not applied (§2.4)."""
        while not self.finished:
            self._take(self._queue.get())
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.finished:
            raise StopIteration
        self._take(self._queue.get())
        return self

    def __aiter__(self):
        assert self._aqueue is not None, (
            "The asyncio event loop was not present during initialization, so async "
            "operations are not available."
        )
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        self._take(await self._aqueue.get())
        return self

    def abort(self):
        if not current().abort:
            raise AttributeError("abort")
        calls.note("abort", request_id=self.request_id)
        self._aborted = True

    def __getattribute__(self, name):
        if name == "abort" and not current().abort:
            raise AttributeError(name)
        return object.__getattribute__(self, name)


# ------------------------------------------------------------------------------- LLM

_COMMON = {
    "pipeline_parallel_size": 1,
    "load_format": "auto",
    "enable_lora": False,
    "lora_config": None,
    "kv_cache_config": None,
    "enable_chunked_prefill": False,
    "guided_decoding_backend": None,
    "speculative_config": None,
    "max_batch_size": 2048,
    "max_input_len": 1024,
    "max_seq_len": None,
    "max_beam_width": 1,
    "max_num_tokens": 8192,
    "gather_generation_logits": False,
}
_PYTORCH = {
    "cuda_graph_config": "default",
    "disable_overlap_scheduler": False,
    "attn_backend": "TRTLLM",
    "stream_interval": 1,
}
_TENSORRT = {
    "build_config": None,
    "quant_config": None,
    "calib_config": None,
    "enable_build_cache": None,
    "fast_build": False,
}
_CHUNKED_CONTEXT = {"enable_chunked_context": False}


class _BaseLLM:
    backend = "tensorrt"

    def __init__(
        self,
        model,
        tokenizer=None,
        tokenizer_mode="auto",
        skip_tokenizer_init=False,
        trust_remote_code=False,
        tensor_parallel_size=1,
        dtype="auto",
        revision=None,
        tokenizer_revision=None,
        **kwargs,
    ):
        self._refuse_unknown(kwargs)
        if tensor_parallel_size > 1:
            raise RuntimeError(
                f"Only 1 GPUs are available, but {tensor_parallel_size} are required."
            )
        calls.note(
            "LLM",
            backend=self.backend,
            model=str(model),
            skip_tokenizer_init=skip_tokenizer_init,
            dtype=dtype,
            **kwargs,
        )
        self._skip_tokenizer = skip_tokenizer_init
        self._options = {**_COMMON, **kwargs}
        self._trust = trust_remote_code
        self._open(Path(model), dtype)
        self._shut = False
        self._live = []
        self._arrived = queue.SimpleQueue()
        self._numbers = iter(range(10**9))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _refuse_unknown(self, kwargs):
        known = _COMMON | (_PYTORCH if self.backend == "pytorch" else _TENSORRT)
        if current().hlapi:
            known |= _CHUNKED_CONTEXT
            known.pop("enable_chunked_prefill", None)
            known.pop("guided_decoding_backend", None)
        for name in kwargs:
            if self.backend == "pytorch" and name in _TENSORRT and current().runtime:
                raise ValueError(
                    "The following arguments are specific to TensorRT backend and "
                    f"cannot be used with PyTorch backend: {[name]}"
                )
            if name not in known:
                raise ValueError(f"{type(self).__name__} got invalid argument: {name}")

    # -------------------------------------------------------------------- the engine

    def _open(self, path, dtype):
        raise NotImplementedError

    def _serve(self):
        """A loop like in-flight batching: a token for each live request a round."""
        while not self._shut:
            while len(self._live) < self._max_batch_size:
                try:
                    arrived = self._arrived.get(block=not self._live)
                except queue.Empty:
                    break
                if arrived is None:
                    return
                self._live.append(arrived)
            time.sleep(STEP_S)
            for entry in list(self._live):
                output, sequence, limit, stops, end_id, streaming = entry
                calls.note("round", request_id=output.request_id)
                response = self._advance(output, sequence, limit, stops, end_id)
                if response.last or streaming:
                    output._push(response)
                if response.last:
                    self._live.remove(entry)

    def _advance(self, output, sequence, limit, stops, end_id):
        if output._aborted:  # empty since 0.16 (§2.4)
            return _Response([], finish_reason="cancelled", last=True)
        try:
            token = sequence.step()
        except RuntimeError as error:
            return _Response([], error=str(error), last=True)
        ids = list(sequence.tokens)
        if token == end_id:
            kept = ids if current().end_id_in_tokens else ids[:-1]
            return _Response(kept, finish_reason="stop", last=True)
        if token in stops:
            keep = getattr(output._params, "include_stop_str_in_output", False)
            return _Response(
                ids if keep else ids[:-1],
                finish_reason="stop",
                stop_reason=token,
                last=True,
            )
        if len(ids) >= limit:
            return _Response(ids, finish_reason="length", last=True)
        return _Response(ids)

    # ---------------------------------------------------------------------- requests

    def generate_async(
        self,
        inputs,
        sampling_params=None,
        lora_request=None,
        prompt_adapter_request=None,
        streaming=False,
    ):
        if self._shut:
            raise RuntimeError("LLM is shutting down")
        prompt = inputs["prompt_token_ids"] if isinstance(inputs, dict) else inputs
        prompt = list(prompt)
        params = sampling_params
        self._setup(params)
        if current().old_names and params.stop:
            raise AssertionError("stop strings never come here in these tests")
        limit = self._check_arguments(len(prompt), params)
        output = RequestOutput(self, next(self._numbers), prompt, params)
        calls.note(
            "generate_async",
            request_id=output.request_id,
            prompt_length=len(prompt),
            params=dataclasses.asdict(params),
        )
        end_id, stops = params.end_id, set(params.stop_token_ids or ())
        if params.ignore_eos:
            end_id = -1
            if current().ignore_eos_drops_stop_words:
                stops = set()
        if isinstance(limit, str):  # refused by the worker (§2.5)
            output._push(_Response([], error=limit, last=True))
            return output
        sequence = Sequence(
            self._model_path,
            prompt,
            Sampling(
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
                min_p=getattr(params, "min_p", None),
                seed=_value(params, "seed"),
                repetition_penalty=params.repetition_penalty,
                presence_penalty=params.presence_penalty,
                frequency_penalty=params.frequency_penalty,
                min_tokens=_value(params, "min_tokens"),
                bias=params.embedding_bias,
                banned=params.bad_token_ids or (),
            ),
            end_id=None if end_id == -1 else end_id,
        )
        self._arrived.put((output, sequence, limit, stops, end_id, streaming))
        return output

    def _setup(self, params):
        """Change the caller's object, as the real one does (§2.3, §3)."""
        if params.end_id is None:
            if self._skip_tokenizer:
                raise ValueError(
                    "tokenizer is required to reset end_id if it is None, or you can "
                    "explicitly specify the end_id for sampling_params"
                )
            raise AssertionError("these tests have no tokenizer for TensorRT-LLM")
        if params.stop:
            raise RuntimeError(
                f"SamplingParams.stop ({params.stop}) is not processed by tokenizer, "
                "please call the setup method."
            )
        if params.pad_id is None:
            params.pad_id = params.end_id

    def _check_arguments(self, length, params):
        """Return the limit of new tokens, or the error of the worker (§2.6)."""
        error = RequestError if current().request_error else ValueError
        max_tokens = _value(params, "max_tokens")
        if length > self._max_num_tokens and not self._chunked:
            raise error(
                f"The sum of prompt length ({float(length)}), query length (0) should "
                f"not exceed max_num_tokens ({self._max_num_tokens})"
            )
        if length + max_tokens <= self._max_seq_len:
            return max_tokens
        if self.backend == "tensorrt" and current().over_length == "raise":
            raise ValueError(
                f"The sum of prompt length ({length}) and query length (0) max_tokens "
                f"({max_tokens}) should not exceed max_seq_len ({self._max_seq_len})"
            )
        calls.note("clamped", prompt_length=length, max_tokens=max_tokens)
        left = self._max_seq_len - length
        return (
            left
            if left > 0
            else ("[TensorRT-LLM][ERROR] Assertion failed: mMaxNewTokens > 0")
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._close()

    def _close(self):
        if self._shut:
            return
        calls.note("shutdown")
        self._shut = True
        self._arrived.put(None)
        self._thread.join(10)

    def __getattribute__(self, name):
        hidden = "_shutdown" if current().public_shutdown else "shutdown"
        if name == hidden:
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def shutdown(self):
        self._close()

    def _shutdown(self):
        self._close()


class TorchLLM(_BaseLLM):
    """``tensorrt_llm.LLM`` from 1.0 on."""

    backend = "pytorch"

    def _open(self, path, dtype):
        assert not (path / "rank0.engine").exists(), "no engine directory here"
        config = json.loads((path / "config.json").read_text())
        AutoConfig.from_pretrained(path, trust_remote_code=self._trust)
        inferred = config["max_position_embeddings"]
        # A larger length is lowered with a warning (§2.6).
        self._max_seq_len = min(self._options["max_seq_len"] or inferred, inferred)
        self._max_num_tokens = self._options["max_num_tokens"] or 8192
        self._max_batch_size = self._options["max_batch_size"] or 2048
        self._chunked = self._options["enable_chunked_prefill"]
        self._model_path = path


class TrtLLM(_BaseLLM):
    """``tensorrt_llm.LLM`` up to 0.21, ``_tensorrt_engine.LLM`` from 1.0."""

    backend = "tensorrt"

    def _open(self, path, dtype):
        if not (path / "rank0.engine").exists():
            calls.note("build", build_config=self._options.get("build_config"))
            # `from_hugging_face` of the model classes trusts code by default.
            AutoConfig.from_pretrained(path, trust_remote_code=True)
            self._built = self._build(path, dtype)
            self._limits(self._built["build"])
            self._model_path = path
            return
        plan = engine_dir.Plan(path)
        self._built = None
        # The engine's own numbers override the arguments (§2.1).
        self._limits(plan.build)
        self._model_path = plan.model

    def _build(self, path, dtype):
        wanted = self._options.get("build_config") or BuildConfig()
        quant = self._options.get("quant_config") or QuantConfig()
        return {
            "model": path,
            "dtype": dtype,
            "quant_algo": quant.quant_algo,
            "build": {
                **dataclasses.asdict(wanted),
                "max_seq_len": wanted.max_seq_len
                or json.loads((path / "config.json").read_text())[
                    "max_position_embeddings"
                ],
            },
        }

    def _limits(self, build):
        self._max_seq_len = build["max_seq_len"]
        self._max_num_tokens = build["max_num_tokens"]
        self._max_batch_size = build["max_batch_size"]
        self._chunked = self._options.get("enable_chunked_prefill", False)

    def save(self, target):
        """Save the built engine, without a tokenizer."""
        assert self._built is not None
        build = self._built["build"]
        engine_dir.write(
            target,
            self._built["model"],
            max_batch_size=build["max_batch_size"],
            max_input_len=build["max_input_len"],
            max_seq_len=build["max_seq_len"],
            max_num_tokens=build["max_num_tokens"],
            quant_algo=self._built["quant_algo"],
        )
