# SPDX-License-Identifier: Apache-2.0

"""`EngineConfig`: every load-time option, checked once, each with its source.

Options have vLLM's names where vLLM has them. Options of one engine alone go into
`backend_options`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, NoneType
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
"""Fields that not every engine honours. `Backend.engine_options` lists those that a
backend honours; the others are refused if they are given."""


class Source(enum.Enum):
    """Where the value of an option came from."""

    DEFAULT = "default"
    ARGUMENT = "argument"
    ENVIRONMENT = "environment"


def _option(
    expected: str, accepts: Callable[[Any], bool], default: Any = None, **field: Any
) -> Any:
    """Return a field that refuses values; `None` is valid where it is the default."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (accepts(value) or (value is None and default is None)):
            also = " or None" if default is None else ""
            raise ConfigError(
                f"{attribute.name} must be {expected}{also}, got {value!r}."
            )

    return attrs.field(default=default, validator=check, **field)


def is_integer(value: Any) -> bool:
    """Whether an option is an integer of Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # A larger integer is not a float, which time and shares of memory are.
    return isinstance(value, float) or (is_integer(value) and abs(value) < 2**53)


def _count(default: int | None = None) -> Any:
    return _option("an integer ≥ 1", lambda v: is_integer(v) and v >= 1, default)


def _flag(default: bool | None = False) -> Any:
    # A text is never a flag: "False" would be true.
    return _option("True or False", lambda v: isinstance(v, bool), default)


def _text(default: str | None = None) -> Any:
    return _option("a text", lambda v: isinstance(v, str), default)


def _as_dtype(value: Any) -> str:
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


def as_python(value: Any) -> str:
    """Return the path of an interpreter or the name of an environment."""
    if isinstance(value, (str, os.PathLike)):
        name = os.fspath(value)
        if isinstance(name, str) and name:
            return name
    raise ConfigError(
        "python must be the path of an interpreter, the name of an environment or "
        f"None, got {value!r}."
    )


def _mapping(**default: Any) -> Any:
    converter = attrs.Converter(_as_options, takes_field=True)
    return attrs.field(converter=converter, **default)


@suggest_names()
@attrs.frozen(kw_only=True)
class EngineConfig:
    """Options with which a generator is created.

    Raises:
        ConfigError: An option has an invalid value.
        UnknownArgumentError: The option does not exist; names the nearest.
    """

    __module__ = "unillm"

    model: str
    """Name or path, as the caller wrote it."""

    path: Path
    """Directory of the model."""

    revision: str | None = _text()
    """Branch, tag or commit of a hub id; `None` for its main branch."""

    backend: str = "auto"
    """Name of the backend; "auto" takes the best that can run here."""

    python: str | None = attrs.field(
        default=None, converter=attrs.converters.optional(as_python)
    )
    """Interpreter of the engine's process, whose environment has the backend: its path,
    or the name of an environment; `None` for this process, or for the environment in
    which the backend is found."""

    tokenizer: Any = None
    """Path or object; `None` for the model's own."""

    dtype: str = _option(
        f"one of {', '.join(DTYPES)}",
        lambda v: v in DTYPES,
        "auto",
        converter=_as_dtype,
    )
    """Type of weights and cache; "auto" is the checkpoint's."""

    max_model_len: int | None = _count()
    """Prompt and new tokens together; `None` for what the model and memory allow."""

    max_num_seqs: int | None = _count()
    """Requests served at the same time: the slots of a static engine."""

    max_num_batched_tokens: int | None = _count()
    """Prompt tokens computed in one step; longer prompts are computed in chunks. `None`
    for the backend's default."""

    max_logprobs: int = _option(
        "an integer ≥ 0, or -1 for all", lambda v: is_integer(v) and v >= -1, 20
    )
    """Largest `SamplingParams.logprobs`; -1 allows the whole vocabulary."""

    max_queued_requests: int = _count(65_536)
    """Requests that may wait for their first token."""

    max_queued_tokens: int = _count(16 * 2**20)
    """Prompt tokens that may wait, over all requests."""

    step_timeout_s: float = _option(
        "a number of seconds > 0", lambda v: _is_number(v) and v > 0, 600.0
    )
    """Seconds after which an engine that does not return from a step counts as dead;
    infinity waits for ever."""

    strict_length: bool = _flag()
    """Refuse a request whose `max_tokens` does not fit, instead of fitting it."""

    strict_generation_config: bool = _flag()
    """Refuse a model whose ``generation_config.json`` asks for what no backend honours,
    instead of logging a warning."""

    chat_template: str | None = _text()
    """Template text to use instead of the tokenizer's, or the name of one of its."""

    trust_remote_code: bool = _flag()
    """Run code that the checkpoint brings. Read it first."""

    seed: int = _option("an integer", is_integer, 0)
    """Seed that draws the seeds of requests that set none."""

    enforce_eager: bool = _flag()
    """Compile nothing and record no CUDA graphs: starts sooner, steps take longer."""

    quantization: str | None = _text()
    """Format of the weights, by the name that vLLM or the engine gives it; `None` for
    the checkpoint's."""

    kv_cache_dtype: str = _text("auto")
    """Type of keys and values; "auto" is the model's."""

    tensor_parallel_size: int = _count(1)
    """Devices that share each layer."""

    pipeline_parallel_size: int = _count(1)
    """Groups of devices that share the layers."""

    data_parallel_size: int = _count(1)
    """Replicas of the engine, each in a process with devices or cores of its own."""

    gpu_memory_utilization: float | None = _option(
        "a number in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1
    )
    """Share of a device's memory that the engine may take; `None` for its default."""

    enable_prefix_caching: bool | None = _flag(None)
    """Keep the cache of prompts for prompts that begin alike; `None` for the engine's
    default."""

    speculative_config: Mapping[str, Any] | None = _mapping(default=None)
    """Speculative decoding, in vLLM's words: ``method``, ``num_speculative_tokens``."""

    enable_lora: bool = _flag()
    """Allow requests to name a LoRA adapter."""

    max_loras: int | None = _count()
    """Adapters in one step; `None` for the engine's default."""

    max_lora_rank: int | None = _count()
    """Largest rank of an adapter; `None` for the engine's default."""

    backend_options: Mapping[str, Any] = _mapping(factory=dict)
    """Options that only the chosen backend knows."""

    sources: Mapping[str, Source] = attrs.field(factory=dict, repr=False, eq=False)
    """Where each value came from, for those that are not defaults."""

    @classmethod
    def create(cls, *, backend: str | None, **given: Any) -> EngineConfig:
        """Return a configuration from arguments and the environment.

        Args:
            backend: Backend that the code names; `None` and "auto" leave the choice to
                the environment.
            given: Any other field. `None` leaves the default.
        """
        sources = {}
        if not isinstance(backend, (str, NoneType)):
            raise ConfigError(f"backend must be a name or None, got {backend!r}.")
        if backend not in (None, "auto"):
            sources["backend"] = Source.ARGUMENT
        elif backend := os.environ.get(BACKEND_VARIABLE):
            sources["backend"] = Source.ENVIRONMENT
        given, given_sources = _given(given)
        return cls(
            backend=(backend or "auto").lower(),
            sources=sources | given_sources,
            **given,
        )

    def with_options(self, **given: Any) -> EngineConfig:
        """Return a copy with further options; `None` leaves a value as it is."""
        given, sources = _given(given)
        return attrs.evolve(self, sources={**self.sources, **sources}, **given)

    def source_of(self, name: str) -> Source:
        """Return where the value of an option came from."""
        return self.sources.get(name, Source.DEFAULT)

    def is_default(self, name: str) -> bool:
        """Return whether an option has its default value."""
        default: Any = attrs.fields_dict(EngineConfig)[name].default
        if hasattr(default, "factory"):
            default = default.factory()
        return bool(getattr(self, name) == default)


def _given(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Source]]:
    """Return the options that are not `None`, and the sources of those not default."""
    given = {name: value for name, value in options.items() if value is not None}
    fields = attrs.fields_dict(EngineConfig)
    return given, {
        name: Source.ARGUMENT
        for name, value in given.items()
        if name in fields and value is not fields[name].default
    }
