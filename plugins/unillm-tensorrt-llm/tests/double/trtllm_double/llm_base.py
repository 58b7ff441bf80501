# SPDX-License-Identifier: Apache-2.0

"""The part of ``LLM`` that both backends share (§2)."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from pathlib import Path

from transformers import AutoTokenizer

from . import calls, configs, params, results
from .guided import Guide, vocabulary
from .logprobs import after_tokens, of_prompt
from .model import STEP_S, Sequence, load
from .profiles import current
from .results import RequestError, Response
from .samplers import Sampling


@dataclasses.dataclass
class _Live:
    """A request in the executor."""

    output: results.RequestOutput
    sequence: Sequence
    limit: int
    stop_ids: set
    streaming: bool
    entries: list = dataclasses.field(default_factory=list)
    """Log-probabilities of the new tokens."""
    prompt_entries: list = dataclasses.field(default_factory=list)


def _ends(values):
    """Return the EOS token and the stop words of a request (§3)."""
    stop_ids = set(getattr(values, "stop_token_ids", None) or ())
    if not getattr(values, "ignore_eos", False):
        return values.end_id, stop_ids
    return -1, set() if current().ignore_eos_drops_stop_words else stop_ids


class BaseLLM:
    def __init__(
        self,
        model,
        tokenizer=None,
        skip_tokenizer_init=False,
        trust_remote_code=False,
        tensor_parallel_size=1,
        dtype="auto",
        **others,
    ):
        given = {
            name: value
            for name, value in others.items()
            if name not in ("tokenizer_mode", "revision", "tokenizer_revision")
            and (name != "speculative_model" or value is not None)
        }
        self._refuse_unknown(given)
        if tensor_parallel_size > 1:
            raise RuntimeError(
                f"Only 1 GPUs are available, but {tensor_parallel_size} are required."
            )
        calls.note(
            "LLM",
            backend=self._backend,
            model=str(model),
            skip_tokenizer_init=skip_tokenizer_init,
            dtype=dtype,
            **given,
        )
        self._skip_tokenizer = skip_tokenizer_init
        self._tokenizer = None if skip_tokenizer_init else str(tokenizer or model)
        self._options = {**configs.known_arguments(self._backend), **given}
        self._trust = trust_remote_code
        self._blocks = set()
        self._open(Path(model), dtype)
        self._sampler = self._make_sampler()
        self._shut = False
        self._live = []
        self._arrived = queue.SimpleQueue()
        self._numbers = iter(range(10**9))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _refuse_unknown(self, given):
        """Raise for the first unknown name (§2.1)."""
        known = configs.known_arguments(self._backend)
        for name in given:
            of_engines = name in configs.TENSORRT_ONLY and name not in known
            if of_engines and current().runtime:
                raise ValueError(
                    "The following arguments are specific to TensorRT backend and "
                    f"cannot be used with PyTorch backend: {[name]}"
                )
            if name not in known:
                raise ValueError(f"LLM got invalid argument: {name}")

    # -------------------------------------------------------------------- the engine

    def _open(self, path, dtype):
        raise NotImplementedError

    def _make_sampler(self):
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
            self._sampler.begin_round([each.sequence for each in self._live])
            for live in list(self._live):
                calls.note("round", request_id=live.output.request_id)
                response = self._advance(live)
                if response.last or self._is_due(live):
                    live.output._push(response)
                if response.last:
                    self._live.remove(live)

    def _is_due(self, live) -> bool:
        """Whether a stream shows this token: the first, then each k-th (§2.4)."""
        count = len(live.sequence.tokens)
        interval = self._options.get("stream_interval") or 1
        return live.streaming and (count == 1 or count % interval == 0)

    def _advance(self, live) -> Response:
        if live.output._aborted:
            return Response([], finish_reason="cancelled")
        sequence = live.sequence
        try:
            token = sequence.step()
        except RuntimeError as error:
            return Response([], error=str(error))
        given = live.output._params
        live.entries += after_tokens(sequence, given, self._kind())
        if len(sequence.tokens) == 1:
            live.prompt_entries = of_prompt(sequence, given, self._known_ids(live))
        return results.trim(self._response(live, token), given)

    def _response(self, live, token) -> Response:
        """Judge the end in the order of the sampler (§2.4)."""
        ids = list(live.sequence.tokens)
        shown = {
            "logprobs": list(live.entries),
            "prompt_logprobs": live.prompt_entries,
        }
        if token == live.sequence.end_id:
            if self._sampler.shows_end_id:
                return Response(ids, finish_reason="stop", **shown)
            shown["logprobs"] = shown["logprobs"][:-1]
            return Response(ids[:-1], finish_reason="stop", **shown)
        by_length = len(ids) >= live.limit
        if token in live.stop_ids and not (
            by_length and self._sampler.length_before_stop_words
        ):
            return Response(ids, finish_reason="stop", stop_reason=token, **shown)
        return Response(ids, finish_reason="length" if by_length else None, **shown)

    # ---------------------------------------------------------------------- requests

    def generate_async(
        self,
        inputs=None,
        prompt=None,
        sampling_params=None,
        streaming=False,
        lora_request=None,
        **others,
    ):
        if self._shut:
            raise RuntimeError("LLM is shutting down")
        asked = prompt if inputs is None else inputs
        if isinstance(asked, dict):
            asked = asked["prompt_token_ids"]
        if not isinstance(asked, list):
            raise TypeError(
                "The inputs must be type str or list of int, but got "
                f"{type(asked).__name__}"
            )
        self._setup(sampling_params)
        values = params.read(sampling_params)
        limit = self._check_arguments(len(asked), values)
        output = results.make_request_output()(
            next(self._numbers),
            list(asked),
            sampling_params,
            cached_tokens=len(self._cached(asked)),
        )
        calls.note(
            "generate_async",
            request_id=output.request_id,
            prompt_length=len(asked),
            params=dataclasses.asdict(sampling_params),
            **{name: value for name, value in others.items() if value is not None},
        )
        error = limit if isinstance(limit, str) else self._refusal(values)
        guide = None
        if not error:
            guide, error = self._guide(values)
        if error:  # of the worker (§2.5)
            output._push(Response([], error=error))
            return output
        end_id, stop_ids = _ends(values)
        sequence = Sequence(
            self._model_path,
            self._computed(output),
            Sampling.of(values),
            end_id=end_id,
            sampler=self._sampler,
            guide=guide,
            adapter=self._adapter(lora_request),
        )
        self._arrived.put(_Live(output, sequence, limit, stop_ids, streaming))
        return output

    def generate(self, inputs=None, prompts=None, sampling_params=None, **others):
        """Wait for all results; one that fails loses the others (§2.3)."""
        asked = prompts if inputs is None else inputs
        pending = [self.generate_async(each, sampling_params) for each in asked]
        return [each.result() for each in pending]

    def _refusal(self, values) -> str | None:
        """Return why the worker cannot compute a request."""
        return None

    def _guide(self, values):
        """Return the guide of a request and no error, or an error (§4.6)."""
        asked = getattr(values, "guided_decoding", None)
        if asked is None:
            return None, None
        if self._options.get("guided_decoding_backend") is None:
            return None, "guided decoding needs guided_decoding_backend"
        if self._tokenizer is None:
            return None, "guided decoding needs the tokenizer of the LLM"
        size = load(str(self._model_path)).config.vocab_size
        try:
            return Guide(asked, vocabulary(self._tokenizer, size)), None
        except ValueError as error:
            return None, f"Grammar compilation failed: {error}"

    def _adapter(self, asked) -> str | None:
        """Return the directory of a request's LoRA adapter (§8).

        Raises:
            RequestError: It cannot be loaded.
        """
        if asked is None:
            return None
        if not (self._options.get("enable_lora") or self._options.get("lora_config")):
            raise ValueError("LoRA is not enabled")
        try:
            load(str(self._model_path), asked.lora_path)
        except Exception as error:
            raise RequestError(
                f"Failed to load LoRA adapter {asked.lora_name}: {error}"
            ) from error
        return asked.lora_path

    def _setup(self, given):
        """Change the caller's object, as the real one does (§2.3, §3)."""
        if given.end_id is None:
            if self._skip_tokenizer:
                raise ValueError(
                    "tokenizer is required to reset end_id if it is None, or you can "
                    "explicitly specify the end_id for sampling_params"
                )
            tokenizer = AutoTokenizer.from_pretrained(self._tokenizer)
            given.end_id = given.pad_id = tokenizer.eos_token_id
        for name in ("stop", "bad"):
            if params.field(given, name):
                raise RuntimeError(
                    f"SamplingParams.{name} ({params.field(given, name)}) is not "
                    "processed by tokenizer, please call the setup method."
                )
        if given.pad_id is None:
            given.pad_id = given.end_id

    def _check_arguments(self, length, values):
        """Return the limit of new tokens, or the error of the worker (§2.6)."""
        raise NotImplementedError

    # ------------------------------------------------------------------------ cache

    def _reuses_blocks(self) -> bool:
        config = self._options.get("kv_cache_config")
        return config is None or getattr(config, "enable_block_reuse", True)

    def _cached(self, prompt) -> list:
        """Return the ids of a prompt whose blocks are in the cache; note the blocks."""
        if not self._reuses_blocks():
            return []
        size = 32  # tokens_per_block (§2.2)
        ends = range(size, len(prompt), size)
        found = [end for end in ends if tuple(prompt[:end]) in self._blocks]
        self._blocks |= {tuple(prompt[:end]) for end in ends}
        return prompt[: found[-1]] if found else []

    def _computed(self, output) -> list:
        """Return the prompt as it is computed: chunks over reused blocks are wrong."""
        prompt, cached = output.prompt_token_ids, output._num_cached
        in_chunks = self._chunked and len(prompt) > self._max_num_tokens
        if not (in_chunks and current().corrupts_chunks):
            return prompt
        return [*reversed(prompt[:cached]), *prompt[cached:]]

    def _known_ids(self, live) -> int:
        return live.output._num_cached

    # ---------------------------------------------------------------------- closing

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
