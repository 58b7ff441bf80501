# SPDX-License-Identifier: Apache-2.0

"""``LLM`` on PyTorch and on engines (§2)."""

from __future__ import annotations

import dataclasses
import json

from transformers import AutoConfig

from . import calls, configs, engine_dir, names
from .llm_base import BaseLLM
from .profiles import current
from .results import RequestError
from .samplers import CppSampler, TorchSampler


def make_llm(backend: str):
    """Make the class of the current version (§1.2)."""
    base = {"pytorch": _TorchLLM, "tensorrt": _TrtLLM}[backend]
    return type(
        "LLM",
        (base,),
        {
            "__init__": names.declared("LLM", base.__init__),
            "generate": names.declared("LLM", base.generate),
            "generate_async": names.declared("LLM", base.generate_async),
            current().shutdown: base._close,
        },
    )


class _TorchLLM(BaseLLM):
    """``tensorrt_llm.LLM`` from 1.0 on, ``tensorrt_llm._torch.LLM`` before."""

    _backend = "pytorch"

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

    def _make_sampler(self):
        """Choose as the version does (§4.1)."""
        profile = current()
        options = {name: self._options[name] for name, _ in profile.sampler_options}
        speculation = self._options["speculative_config"]
        in_cpp = profile.cpp_sampler and (
            options.get("enable_trtllm_sampler")
            or options.get("use_torch_sampler") is False
            or options.get("sampler_type") == "TRTLLMSampler"
        )
        if in_cpp and speculation is None:  # speculation brings its own sampler
            return CppSampler()
        if options.get("sampler_type") == "TRTLLMSampler" and not profile.cpp_sampler:
            raise ValueError("sampler_type='TRTLLMSampler' has been removed")
        mixed = options.get("enable_mixed_sampler") or options.get("mixed_sampler")
        assert not (mixed and speculation)
        return TorchSampler(
            profile,
            mixed=bool(mixed),
            speculates=speculation is not None,
            greedy_only=configs.speculates_greedily(speculation),
        )

    def _kind(self):
        return "pytorch"

    def _check_arguments(self, length, values):
        in_2026 = current().over_length == "2026"
        if length > self._max_num_tokens and not self._chunked:
            error = RequestError if in_2026 else ValueError
            raise error(
                f"The sum of prompt length ({float(length)}), query length (0) should "
                f"not exceed max_num_tokens ({self._max_num_tokens})"
            )
        left = self._max_seq_len - length
        if values.max_tokens is not None and values.max_tokens <= left:
            return values.max_tokens
        if left > 0:
            calls.note("clamped", prompt_length=length, max_tokens=values.max_tokens)
            return left
        if in_2026:
            raise RequestError(
                f"`default_max_tokens` ({left}) must be greater than 0, "
                f"`max_seq_len` ({self._max_seq_len}) is too small"
            )
        return "[TensorRT-LLM][ERROR] Assertion failed: mMaxNewTokens > 0"


class _TrtLLM(BaseLLM):
    """``tensorrt_llm.LLM`` up to 0.21, ``_tensorrt_engine.LLM`` from 1.0."""

    _backend = "tensorrt"

    def _open(self, path, dtype):
        kv = self._options.get("kv_cache_config")
        if getattr(kv, "dtype", "auto") != "auto":
            raise ValueError("kv_cache_config.dtype must be 'auto' on TensorRT")  # §2.2
        if not (path / "rank0.engine").exists():
            calls.note("build", build_config=self._options.get("build_config"))
            # `from_hugging_face` of the model classes trusts code by default.
            AutoConfig.from_pretrained(path, trust_remote_code=True)
            self._built = self._build(path, dtype)
            self._limits(self._built["build"])
            self._model_path = path
            return
        plan = engine_dir.Plan(path)
        if not plan.inflight:
            raise RuntimeError("the executor needs an engine for in-flight batching")
        self._built = None
        self._limits(plan.build)
        self._model_path = plan.model

    def _make_sampler(self):
        return CppSampler()

    def _kind(self):
        return "engine"

    def _build(self, path, dtype):
        wanted = self._options.get("build_config") or configs.make_build_config()()
        quant = self._options.get("quant_config")
        return {
            "model": path,
            "dtype": dtype,
            "quant_algo": None if quant is None else quant.quant_algo,
            "build": {
                **dataclasses.asdict(wanted),
                "max_seq_len": wanted.max_seq_len
                or json.loads((path / "config.json").read_text())[
                    "max_position_embeddings"
                ],
            },
        }

    def _limits(self, build):
        """Take the run-time numbers, lowered to those of the engine (§2.1)."""
        profile = current()

        def number(name):
            asked = None
            for option in profile.run_time_numbers:
                if option.endswith(name):
                    asked = self._options.get(option)
            return min(asked or build[name], build[name])

        self._gathers = bool(build.get("gather_generation_logits"))
        self._max_seq_len = build["max_seq_len"]
        self._max_batch_size = number("max_batch_size")
        if build["max_num_tokens"] is None:  # the default up to 0.14 (§6)
            build = build | {
                "max_num_tokens": build["max_input_len"] * build["max_batch_size"]
            }
        self._max_num_tokens = number("max_num_tokens")
        self._chunked = self._options.get("enable_chunked_prefill", False)
        calls.note("max_num_tokens", number=self._max_num_tokens)

    def _check_arguments(self, length, values):
        """Refuse a sum in Python, and a long prompt in C++ (§2.6)."""
        max_tokens = values.max_tokens
        if length + max_tokens > self._max_seq_len and not self._chunked:
            raise ValueError(
                f"The sum of prompt length ({length}) and query length (0) max_tokens "
                f"({max_tokens}) should not exceed max_seq_len ({self._max_seq_len})"
            )
        longest = min(self._max_seq_len - 1, self._max_num_tokens)
        if length > longest and not self._chunked:
            return (
                f"Prompt length ({length}) exceeds maximum input length ({longest}). "
                "Set log level to info and check TRTGptModel logs for how maximum "
                "input length is set"
            )
        return max_tokens

    def _refusal(self, values) -> str | None:
        """Return the error of the C++ runtime (§3, §4.5)."""
        if getattr(values, "logprobs", None) is not None and not self._gathers:
            return "log-probabilities need an engine with gather_generation_logits"
        return None

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
            gather_generation_logits=bool(build["gather_generation_logits"]),
        )
