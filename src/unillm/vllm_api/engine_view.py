# SPDX-License-Identifier: Apache-2.0

"""`LLM.model_config` and `LLM.get_metrics`: facts to read.

A program that would reach into the engine gets an `AttributeError` that names the calls
of `Generator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..generator import Generator
from .v1.metrics.reader import Counter, Gauge, Metric

_INSTEAD = (
    "the engine belongs to llm.generator, whose submit(), stream(), stats() and limits "
    "are the same on every backend"
)


@attrs.frozen
class ModelConfig:
    """Facts about a model under the names of vLLM's ``ModelConfig``."""

    _generator: Generator

    @property
    def model(self) -> str:
        """Name of the model, as it was given."""
        return self._generator.config.model

    @property
    def tokenizer(self) -> str:
        """Name or path of the tokenizer."""
        given = self._generator.config.tokenizer
        return given if isinstance(given, str) else self.model

    @property
    def max_model_len(self) -> int:
        """Tokens of a request's prompt and new tokens together."""
        return self._generator.limits.max_model_len

    @property
    def max_logprobs(self) -> int:
        """Largest `SamplingParams.logprobs` allowed."""
        return self._generator.config.max_logprobs

    @property
    def seed(self) -> int:
        """Draws the seeds of requests that set none."""
        return self._generator.config.seed

    @property
    def quantization(self) -> str | None:
        """The argument of that name."""
        return self._generator.config.quantization

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the checkpoint may run."""
        return self._generator.config.trust_remote_code

    @property
    def dtype(self) -> Any:
        """Type of the weights, as a dtype of torch."""
        import torch

        engine = self._generator.stats()["engine"]
        name = engine.get("dtype", self._generator.config.dtype)
        if name == "auto":
            found = self.hf_text_config.dtype
            return torch.float32 if found is None else found
        return getattr(torch, name)

    @property
    def hf_config(self) -> Any:
        """The model's configuration as transformers reads it."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            self._generator.config.path, trust_remote_code=self.trust_remote_code
        )

    @property
    def hf_text_config(self) -> Any:
        """The part of `hf_config` that describes the language model."""
        return self.hf_config.get_text_config()

    @property
    def revision(self) -> None:
        """None: unillm takes the files of a model as they are."""

    tokenizer_revision = revision
    code_revision = revision

    @property
    def is_encoder_decoder(self) -> bool:
        """`False`; unillm serves decoders alone."""
        return False

    @property
    def is_multimodal_model(self) -> bool:
        """`False`; prompts are text and token ids."""
        return False

    def get_vocab_size(self) -> int:
        """Return the number of token ids of the model."""
        return self._generator.limits.vocab_size

    if not TYPE_CHECKING:  # a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            raise no_attribute("llm.model_config", name, self)


@attrs.frozen
class CacheConfig:
    """Facts about the cache under the names of vLLM's ``CacheConfig``."""

    _generator: Generator

    @property
    def enable_prefix_caching(self) -> bool | None:
        """The argument of that name; `None` leaves it to the engine."""
        return self._generator.config.enable_prefix_caching

    if not TYPE_CHECKING:  # a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            raise no_attribute("llm.llm_engine.cache_config", name, self)


def no_attribute(owner: str, name: str, on: Any) -> AttributeError:
    """Return the error for a part of the engine that a program cannot reach."""
    return AttributeError(
        f"{owner} has no attribute {name!r}: {_INSTEAD}.", name=name, obj=on
    )


_COUNTERS = {
    "vllm:prompt_tokens": "prompt_tokens",
    "vllm:generation_tokens": "generated_tokens",
}
"""Names of vLLM, with the names in the counters of an engine of unillm."""


def metrics_of(stats: Mapping[str, Any], model: str) -> list[Metric]:
    """Return counters of a generator under vLLM's names, as far as it counts them.

    Args:
        stats: From `Generator.stats`.
        model: Name of the model, for the labels.
    """
    labels = {"model_name": model, "engine": "0"}
    engine = stats["engine"]
    return [
        Gauge("vllm:num_requests_running", labels, stats["live"]),
        Gauge("vllm:num_requests_waiting", labels, stats["queued"]),
        Counter("vllm:request_success", labels, stats["finished"]),
        *(
            Counter(name, labels, engine[key])
            for name, key in _COUNTERS.items()
            if key in engine
        ),
    ]
