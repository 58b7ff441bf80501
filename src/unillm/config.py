# SPDX-License-Identifier: Apache-2.0

"""`EngineConfig`: every load-time option, checked once, each with its source.

Names are vLLM's where vLLM has them. What only one engine knows goes into
`backend_options`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from .errors import ConfigError
from .keywords import suggest_names

BACKEND_VARIABLE = "UNILLM_BACKEND"
"""Environment variable that chooses the backend when the code does not."""

DTYPES = ("auto", "float32", "bfloat16", "float16")

ENGINE_OPTIONS = frozenset(
    {
        "quantization",
        "kv_cache_dtype",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "gpu_memory_utilization",
        "enable_prefix_caching",
        "speculative_config",
        "enable_lora",
        "max_loras",
        "max_lora_rank",
    }
)
"""Fields that an engine may be unable to honour: `Backend.engine_options` says which it
does, and the others are refused where they were given."""


class Source(enum.Enum):
    """Where the value of an option came from."""

    DEFAULT = "default"
    ARGUMENT = "argument"
    ENVIRONMENT = "environment"


def _positive(optional: bool = False) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            also = " or None" if optional else ""
            raise ConfigError(
                f"{field.name} must be an integer ≥ 1{also}, got {value!r}."
            )

    return check


def _seconds(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value > 0:
        raise ConfigError(
            f"{field.name} must be a number of seconds > 0, got {value!r}."
        )


def _whole(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field.name} must be an integer, got {value!r}.")


def _flag_field(default: bool | None = False) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        # A text is never a flag: "False" would be true.
        if not isinstance(value, bool) and value is not default:
            raise ConfigError(f"{field.name} must be True or False, got {value!r}.")

    return attrs.field(default=default, validator=check)


def _text(optional: bool = False) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) and not (optional and value is None):
            also = " or None" if optional else ""
            raise ConfigError(f"{field.name} must be a text{also}, got {value!r}.")

    return check


def _share(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise ConfigError(
            f"{field.name} must be a number in (0, 1] or None, got {value!r}."
        )


def _known_dtype(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value not in DTYPES:
        raise ConfigError(
            f"{field.name} must be one of {', '.join(DTYPES)}, got {value!r}."
        )


def _as_dtype(value: Any) -> Any:
    """Take `torch.float16` for ``"float16"``, without torch, and vLLM's short names."""
    name = str(value).removeprefix("torch.")
    return {"half": "float16", "float": "float32"}.get(name, name)


def _as_options(
    value: Mapping[str, Any] | None, field: attrs.Attribute[Any]
) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field.name} must be a mapping, got {value!r}.")
    return MappingProxyType(dict(value))


def _mapping_field(**default: Any) -> Any:
    converter = attrs.Converter(_as_options, takes_field=True)
    return attrs.field(converter=converter, **default)


@suggest_names
@attrs.frozen(kw_only=True)
class EngineConfig:
    """What a generator is created with.

    Raises:
        ConfigError: An option has a value that cannot work.
        UnknownArgumentError: The option does not exist; names the nearest.
    """

    __module__ = "unillm"

    model: str
    """As the caller wrote it."""

    path: Path
    """Directory of the model."""

    backend: str = "auto"
    """Name of the backend; "auto" takes the best that can run here."""

    tokenizer: Any = None
    """Path or object; `None` for the model's own."""

    dtype: str = attrs.field(
        default="auto", converter=_as_dtype, validator=_known_dtype
    )
    """Of weights and cache; "auto" is the checkpoint's."""

    max_model_len: int | None = attrs.field(default=None, validator=_positive(True))
    """Prompt and new tokens together; `None` for what the model and memory allow."""

    max_num_seqs: int | None = attrs.field(default=None, validator=_positive(True))
    """Requests worked on at the same time: the slots of a static engine."""

    max_num_batched_tokens: int | None = attrs.field(
        default=None, validator=_positive(True)
    )
    """Prompt tokens computed in one step; longer prompts go in chunks. `None` for the
    backend's default."""

    max_logprobs: int = attrs.field(default=20, validator=_whole)
    """Largest `SamplingParams.logprobs`; -1 allows the whole vocabulary."""

    max_queued_requests: int = attrs.field(default=65_536, validator=_positive())
    """Requests that may wait for their first token."""

    max_queued_tokens: int = attrs.field(default=16 * 2**20, validator=_positive())
    """Prompt tokens that may wait, over all requests."""

    step_timeout_s: float = attrs.field(default=600.0, validator=_seconds)
    """Seconds after which an engine that does not come back from a step counts as dead;
    infinity waits for ever."""

    strict_length: bool = _flag_field()
    """Refuse a request whose `max_tokens` does not fit, instead of fitting it."""

    chat_template: str | None = attrs.field(default=None, validator=_text(True))
    """Template text to use instead of the tokenizer's."""

    trust_remote_code: bool = _flag_field()
    """Run code that the checkpoint brings. Read it first."""

    seed: int = attrs.field(default=0, validator=_whole)
    """Of the seeds that requests without one of their own are given."""

    enforce_eager: bool = _flag_field()
    """Compile nothing and record no CUDA graphs: starts sooner, steps take longer."""

    quantization: str | None = attrs.field(default=None, validator=_text(True))
    """How weights are stored, by the name that vLLM or the engine gives it; `None` for
    what the checkpoint says."""

    kv_cache_dtype: str = attrs.field(default="auto", validator=_text())
    """Of keys and values; "auto" is that of the model."""

    tensor_parallel_size: int = attrs.field(default=1, validator=_positive())
    """Devices that share each layer."""

    pipeline_parallel_size: int = attrs.field(default=1, validator=_positive())
    """Groups of devices that share the layers."""

    gpu_memory_utilization: float | None = attrs.field(default=None, validator=_share)
    """Share of a device's memory that the engine may take; `None` for its default."""

    enable_prefix_caching: bool | None = _flag_field(None)
    """Keep what was computed for prompts, for those that begin alike; `None` for the
    engine's default."""

    speculative_config: Mapping[str, Any] | None = _mapping_field(default=None)
    """Speculative decoding, in vLLM's words: ``method``, ``num_speculative_tokens``."""

    enable_lora: bool = _flag_field()
    """Allow requests to name a LoRA adapter."""

    max_loras: int | None = attrs.field(default=None, validator=_positive(True))
    """Adapters in one step; `None` for the engine's default."""

    max_lora_rank: int | None = attrs.field(default=None, validator=_positive(True))
    """Largest rank of an adapter; `None` for the engine's default."""

    backend_options: Mapping[str, Any] = _mapping_field(factory=dict)
    """Options that only the chosen backend knows."""

    sources: Mapping[str, Source] = attrs.field(factory=dict, repr=False, eq=False)
    """Where each value came from, for those that are not defaults."""

    def __attrs_post_init__(self) -> None:
        if self.max_logprobs < -1:
            raise ConfigError(
                f"max_logprobs must be ≥ 0, or -1 for all, got {self.max_logprobs}."
            )

    @classmethod
    def create(cls, *, backend: str | None, **given: Any) -> EngineConfig:
        """Make a configuration from arguments and the environment.

        Args:
            backend: What the code says; `None` or "auto" leave it to the environment.
            given: Any other field. `None` leaves the default.
        """
        given = _without_none(given)
        sources = _sources(given)
        if backend not in (None, "auto"):
            sources["backend"] = Source.ARGUMENT
        elif backend := os.environ.get(BACKEND_VARIABLE):
            sources["backend"] = Source.ENVIRONMENT
        return cls(backend=(backend or "auto").lower(), sources=sources, **given)

    def with_options(self, **given: Any) -> EngineConfig:
        """Return a copy with further options; `None` leaves a value as it is."""
        given = _without_none(given)
        return attrs.evolve(self, sources={**self.sources, **_sources(given)}, **given)

    def source_of(self, name: str) -> Source:
        """Say where the value of an option came from."""
        return self.sources.get(name, Source.DEFAULT)


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _sources(given: Mapping[str, Any]) -> dict[str, Source]:
    """Return the source of each argument that differs from its default."""
    fields = attrs.fields_dict(EngineConfig)
    return {
        name: Source.ARGUMENT
        for name, value in given.items()
        if name in fields and value is not fields[name].default
    }
