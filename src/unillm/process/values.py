# SPDX-License-Identifier: Apache-2.0

"""The values of the `Engine` contract as messages, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import attrs
from msgspec import Raw
from msgspec.msgpack import Decoder

from ..config import EngineConfig, Source
from ..engines.base import (
    Capabilities,
    Capability,
    EngineLimits,
    EngineOutput,
    EngineRequest,
    Support,
    TokenLogprobs,
)
from ..errors import ConfigError, InvalidParameterError, RequestError
from ..lora import LoRARequest
from ..outputs import SlotMetrics
from ..params import SamplingParams
from .channel import ENCODER
from .failures import as_exception, as_failure
from .messages import Config, Logprobs, Output, Params, Ready, Request, SupportName

_LARGEST = 2**63 - 1

_PARAMS = tuple(
    name
    for name in SamplingParams.__struct_fields__
    if name != "stop"  # texts that the core alone searches for
)
_DECODE_PARAMS = Decoder(Params)
_DECODE_REQUEST = Decoder(Request)


# --------------------------------------------------------------------------- requests


def encode_request(request: EngineRequest) -> Raw:
    """Return a request as bytes, its grammar left out.

    Raises:
        InvalidParameterError: A value of it cannot be encoded.
    """
    lora, salt = request.lora_request, request.cache_salt
    message = Request(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        params=Raw(_encode_params(request.params)),
        stop_token_ids=request.stop_token_ids,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        priority=max(-_LARGEST, min(request.priority, _LARGEST)),
        arrival=request.arrival,
        bad_words_token_ids=request.bad_words_token_ids,
        logprob_token_ids=request.logprob_token_ids,
        cache_salt=None if salt is None else salt.encode("utf-8", "surrogatepass"),
        lora=None
        if lora is None
        else (lora.lora_name, lora.lora_int_id, os.fsencode(lora.lora_path)),
    )
    return Raw(_encoded(message))


def _encode_params(params: SamplingParams) -> bytes:
    fields: dict[str, Any] = {}
    for name in _PARAMS:
        if not params.is_default(name):
            value = getattr(params, name)
            if isinstance(value, int) and value > _LARGEST:
                value = _LARGEST  # as good as no limit
            fields[name] = value
    if params.structured_outputs is not None:
        structure = attrs.asdict(params.structured_outputs)
        fields["structured_outputs"] = {k: v for k, v in structure.items() if v}
    return _encoded(Params(fields))


def _encoded(message: Any) -> bytes:
    try:
        return ENCODER.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidParameterError(
            f"The request cannot be sent to the engine's process: {error}.",
            parameter="params",
        ) from error


def decode_request(raw: Raw) -> EngineRequest:
    """Return a request, without its grammar."""
    message = _DECODE_REQUEST.decode(raw)
    lora, salt = message.lora, message.cache_salt
    return EngineRequest(
        request_id=message.request_id,
        prompt_token_ids=message.prompt_token_ids,
        params=_decode_params(bytes(message.params)),
        stop_token_ids=message.stop_token_ids,
        max_new_tokens=message.max_new_tokens,
        seed=message.seed,
        priority=message.priority,
        arrival=message.arrival,
        bad_words_token_ids=message.bad_words_token_ids,
        logprob_token_ids=message.logprob_token_ids,
        cache_salt=None if salt is None else salt.decode("utf-8", "surrogatepass"),
        lora_request=lora and LoRARequest(lora[0], lora[1], os.fsdecode(lora[2])),
    )


@lru_cache(maxsize=256)
def _decode_params(encoded: bytes) -> SamplingParams:
    """Return params. Engines only read them, so that equal ones share an object."""
    return SamplingParams(**_DECODE_PARAMS.decode(encoded).fields)


# ---------------------------------------------------------------------------- outputs


def as_output(output: EngineOutput) -> Output:
    """Return an output as a message."""
    slots, refusal = output.slots, output.refusal
    return Output(
        output.request_id,
        cast("list[int]", output.token_ids),
        output.finish_reason,
        output.stop_token_id,
        output.num_cached_tokens,
        _as_logprobs(output.logprobs),
        None
        if slots is None
        else (
            slots.slot,
            slots.waited_steps,
            slots.prefill_chunks,
            slots.prefill_padding,
            slots.decode_steps,
            slots.refilled,
        ),
        output.error,
        _as_logprobs(output.prompt_logprobs),
        None if refusal is None else as_failure(refusal),
    )


def _as_logprobs(found: Sequence[TokenLogprobs] | None) -> list[Logprobs] | None:
    if found is None:
        return None
    return [
        Logprobs(
            each.logprob,
            each.rank,
            cast("list[int]", each.top_ids),
            cast("list[float]", each.top_logprobs),
        )
        for each in found
    ]


def as_engine_output(message: Output) -> EngineOutput:
    """Return a message as an output."""
    error = message.error
    refusal = None
    if message.refusal is not None:
        found = as_exception(message.refusal)
        refusal = found if isinstance(found, RequestError) else None
        error = error or str(found)
    return EngineOutput(
        request_id=message.request_id,
        token_ids=message.token_ids,
        logprobs=_as_token_logprobs(message.logprobs),
        finish_reason=message.finish_reason,
        stop_token_id=message.stop_token_id,
        error=error,
        num_cached_tokens=message.num_cached_tokens,
        slots=_as_slot_metrics(message.slots),
        prompt_logprobs=_as_token_logprobs(message.prompt_logprobs),
        refusal=refusal,
    )


def _as_slot_metrics(
    found: tuple[int | None, int, int, int, int, bool] | None,
) -> SlotMetrics | None:
    if found is None:
        return None
    return SlotMetrics(
        slot=found[0],
        waited_steps=found[1],
        prefill_chunks=found[2],
        prefill_padding=found[3],
        decode_steps=found[4],
        refilled=found[5],
    )


def _as_token_logprobs(found: list[Logprobs] | None) -> list[TokenLogprobs] | None:
    if found is None:
        return None
    return [
        TokenLogprobs(each.logprob, each.rank, each.top_ids, each.top_logprobs)
        for each in found
    ]


# ------------------------------------------------------- what an engine says of itself


def capabilities_as_message(
    capabilities: Capabilities,
) -> dict[str, tuple[SupportName, str]]:
    """Return capabilities as a message."""
    return {
        name: (each.support.value, each.reason)
        for name, each in capabilities.fields.items()
    }


def as_capabilities(message: Mapping[str, tuple[SupportName, str]]) -> Capabilities:
    """Return a message as capabilities."""
    fields = {
        name: Capability(support=Support(support), reason=reason)
        for name, (support, reason) in message.items()
    }
    return Capabilities(fields=MappingProxyType(fields))


def as_ready(limits: EngineLimits, capabilities: Capabilities) -> Ready:
    """Return what the program needs to know of a loaded engine."""
    return Ready(
        limits=(
            limits.max_model_len,
            limits.max_num_seqs,
            limits.max_prompt_len,
            limits.vocab_size,
            limits.max_logprobs,
        ),
        capabilities=capabilities_as_message(capabilities),
    )


def as_limits(ready: Ready) -> EngineLimits:
    """Return the limits of a loaded engine."""
    max_model_len, max_num_seqs, max_prompt_len, vocab_size, most = ready.limits
    return EngineLimits(
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_prompt_len=max_prompt_len,
        vocab_size=vocab_size,
        max_logprobs=most,
    )


# --------------------------------------------------------------------- configurations

_OF_THE_PROGRAM = {"path", "sources", "python", "data_parallel_size"}
"""Fields that do not cross as they are."""


def encode_config(config: EngineConfig) -> Config:
    """Return a configuration as a message.

    Raises:
        ConfigError: A value of it cannot leave this process.
    """
    fields: dict[str, Any] = {}
    for attribute in attrs.fields(EngineConfig):
        name, value = attribute.name, getattr(config, attribute.name)
        if name in _OF_THE_PROGRAM or config.is_default(name):
            continue
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        fields[name] = _plain_option(name, value)
    return Config(
        path=os.fsencode(config.path),
        fields=fields,
        sources={name: source.value for name, source in config.sources.items()},
    )


def _plain_option(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _plain_option(f"{name}[{key!r}]", each) for key, each in value.items()
        }
    try:
        ENCODER.encode(value)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise ConfigError(
            f"{name}={value!r:.200} cannot be sent to an engine in another process: "
            f"{error}. Pass a path, a text, a number or a list or dict of these."
        ) from error
    return value


def decode_config(message: Config) -> EngineConfig:
    """Return a message as a configuration.

    Raises:
        ConfigError: unillm has other options there.
    """
    return EngineConfig(
        path=Path(os.fsdecode(message.path)),
        sources={name: Source(value) for name, value in message.sources.items()},
        **message.fields,
    )
