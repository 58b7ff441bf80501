# SPDX-License-Identifier: Apache-2.0

"""`SamplingParams` of a body: its fields, then the server's, then OpenAI's."""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import ConfigError, InvalidParameterError, UnsupportedParameterError
from ..params import SamplingParams
from ..structured_outputs import StructuredOutputs
from .bodies import (
    ChatBody,
    CompletionBody,
    ResponseFormat,
    SamplingBody,
    StreamOptions,
)
from .tool_calls import forced_call, may_call

_COPIED = (
    "n",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "prompt_logprobs",
    "allowed_token_ids",
    "bad_words",
)
"""Fields that mean the same in a body and in `SamplingParams`."""


def completion_params(body: CompletionBody, defaults: SamplingParams) -> SamplingParams:
    """Return the params of ``/v1/completions``.

    Args:
        body: The request.
        defaults: The server's, which are the model's own and its overrides.

    Raises:
        InvalidParameterError: A value is impossible, or two contradict each other.
    """
    given = _shared(body)
    max_tokens = body.max_tokens
    if body.echo and max_tokens == 0:
        max_tokens = 1  # engines compute at least one, which the answer leaves out
    if body.logprobs is not None:
        given["logprobs"] = body.logprobs
        if body.echo and body.prompt_logprobs is None:
            given["prompt_logprobs"] = body.logprobs
    return _params(given, max_tokens, defaults)


def chat_params(body: ChatBody, defaults: SamplingParams) -> SamplingParams:
    """Return the params of ``/v1/chat/completions``.

    The arguments and errors are those of `completion_params`.
    """
    given = _shared(body)
    if (call := forced_call(body)) is not None:
        if "structured_outputs" in given:
            raise InvalidParameterError(
                "tool_choice forces a call, and response_format or structured_outputs "
                "asks for another answer. Send one of them.",
                parameter="tool_choice",
                value=None,
            )
        given["structured_outputs"] = call
    if may_call(body):  # many models mark calls with special tokens
        given.setdefault("skip_special_tokens", False)
    if body.logprobs:
        given["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise InvalidParameterError(
            "top_logprobs needs logprobs: true. Send both, or neither.",
            parameter="top_logprobs",
            value=body.top_logprobs,
        )
    max_tokens = body.max_completion_tokens
    if max_tokens is None:
        max_tokens = body.max_tokens
    return _params(given, max_tokens, defaults)


def _params(
    given: dict[str, Any], max_tokens: int | None, defaults: SamplingParams
) -> SamplingParams:
    """Return the params; without any limit, the context is the limit."""
    if max_tokens is None:
        max_tokens = defaults.max_tokens
    return attrs.evolve(defaults, **given, max_tokens=max_tokens)


def _shared(body: SamplingBody) -> dict[str, Any]:
    check_stream_options(body.stream_options, stream=body.stream)
    given = {name: getattr(body, name) for name in _COPIED}
    given = {name: value for name, value in given.items() if value is not None}
    if body.logit_bias is not None:
        given["logit_bias"] = _bias(body.logit_bias)
    structure = structured_outputs(body.response_format, body.structured_outputs)
    if structure is not None:
        given["structured_outputs"] = structure
    return given


def check_stream_options(options: StreamOptions | None, *, stream: bool | None) -> None:
    """Refuse ``stream_options`` without a stream, as OpenAI does.

    Options that ask for nothing are taken, as vLLM takes them.
    """
    if options not in (None, StreamOptions()) and not stream:
        raise InvalidParameterError(
            "stream_options needs stream: true. Send both, or neither.",
            parameter="stream_options",
            value=None,
        )


def _bias(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): bias for token_id, bias in given.items()}
    except ValueError as error:
        raise InvalidParameterError(
            f"logit_bias must map token ids to numbers: {error}.",
            parameter="logit_bias",
            value=None,
        ) from error


def structured_outputs(
    response_format: ResponseFormat | None, given: dict[str, Any] | None
) -> StructuredOutputs | None:
    """Return the constraint that one of the two fields asks for; `None` for none.

    Raises:
        InvalidParameterError: Both are given, or one is impossible.
        UnsupportedParameterError: The constraint is of a kind that no backend has.
    """
    form = None if response_format is None else response_format.type
    if given is not None and form not in (None, "text"):
        raise InvalidParameterError(
            "response_format and structured_outputs are both given. Send one.",
            parameter="structured_outputs",
            value=None,
        )
    if given is not None:
        try:
            return StructuredOutputs(
                **{k: v for k, v in given.items() if v is not None}
            )
        except ConfigError as error:  # a constraint that does not exist
            raise UnsupportedParameterError(
                str(error), parameter="structured_outputs", value=None
            ) from error
    if form == "json_object":
        return StructuredOutputs(json_object=True)
    if response_format is None or form == "text":
        return None
    named = response_format.json_schema
    if named is None or named.schema is None:
        raise InvalidParameterError(
            'response_format of type "json_schema" needs json_schema.schema.',
            parameter="response_format",
            value=None,
        )
    return StructuredOutputs(json=named.schema)
