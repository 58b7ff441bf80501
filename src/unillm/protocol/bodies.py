# SPDX-License-Identifier: Apache-2.0

"""Bodies of requests as msgspec types: OpenAI's fields, and vLLM's further ones.

`None` means that the field is absent or null; only `CompletionBody.max_tokens` has
another default. `reading.read` makes these objects and handles the fields that they
lack.

References:
    OpenAI's specification 2.3.0; ``entrypoints/openai`` of vLLM 0.32.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]


def _about(text: str) -> Meta:
    return Meta(description=text)


class StreamOptions(Struct, kw_only=True):
    """Options of a stream: the usage that it has besides its text."""

    include_usage: Annotated[
        bool | None, _about("Send a last chunk with the counts of tokens.")
    ] = None
    continuous_usage_stats: Annotated[
        bool | None, _about("vLLM's: each chunk has the counts so far.")
    ] = None
    include_obfuscation: Annotated[
        bool | None, _about("Accepted; no padding is sent.")
    ] = None


class JsonSchemaFormat(Struct, kw_only=True):
    """A JSON schema with its name."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """Form of the answer: free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ToolFunction(Struct, kw_only=True):
    """A function that the model may call; ``parameters`` is its JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True):
    """A tool that the model may call."""

    type: Literal["function"]
    function: ToolFunction


class FunctionName(Struct, kw_only=True):
    """The name of one function."""

    name: str


class NamedTool(Struct, kw_only=True):
    """A tool that the model must call."""

    type: Literal["function"]
    function: FunctionName


class SamplingBody(Struct, kw_only=True):
    """Fields that completions and chat share."""

    model: Annotated[str | None, _about("Name of a model of /v1/models.")] = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # vLLM's.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left"] | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    structured_outputs: Annotated[
        dict[str, Any] | None,
        _about("One of json, regex, choice, grammar and json_object."),
    ] = None
    add_special_tokens: bool | None = None
    priority: Annotated[int | None, _about("Lower is sooner.")] = None
    request_id: Annotated[
        str | None, _about("Takes the place of the header X-Request-Id.")
    ] = None
    return_tokens_as_token_ids: Annotated[
        bool | None, _about('Log-probabilities name tokens as "token_id:123".')
    ] = None
    return_token_ids: Annotated[
        bool | None, _about("Return the ids of the prompt and of each choice.")
    ] = None
    # unillm's own.
    timeout_s: Annotated[
        float | None, _about("Seconds that the request has, from its arrival.")
    ] = None


class CompletionBody(SamplingBody, kw_only=True):
    """Body of ``POST /v1/completions``."""

    prompt: Annotated[
        str | list[Any] | None,
        Meta(
            description="A text, a list of texts, token ids or a list of such lists.",
            extra_json_schema={
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                    {
                        "type": "array",
                        "items": {
                            "type": "array",
                            "items": {"type": "integer"},
                            "minItems": 1,
                        },
                        "minItems": 1,
                    },
                ]
            },
        ),
    ] = None
    max_tokens: Annotated[
        int | None, _about("null: as many as the server's default or the context allow")
    ] = 16
    echo: Annotated[bool | None, _about("Put the prompt before the text.")] = None
    logprobs: Count | None = None


class ChatBody(SamplingBody, kw_only=True):
    """Body of ``POST /v1/chat/completions``."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[
        str | None, _about("Refused unless the server trusts templates of requests.")
    ] = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[Any] | None = None
    reasoning_effort: Annotated[
        str | None, _about("A variable of the chat template, as in vLLM.")
    ] = None
    tools: list[Tool] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class TokenizeBody(Struct, kw_only=True):
    """Body of ``POST /tokenize``: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: Annotated[
        bool | None, _about("Default: true for a prompt, false for messages.")
    ] = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[Any] | None = None
    reasoning_effort: str | None = None
    tools: list[Tool] | None = None


class DetokenizeBody(Struct, kw_only=True):
    """Body of ``POST /detokenize``."""

    tokens: list[int]
    model: str | None = None


def plain(value: Any) -> Any:
    """Return a struct, or a list of them, as the dicts and lists of its JSON.

    Fields that are `None` are left out: an absent field of a tool stays absent in the
    chat template.
    """
    built = msgspec.to_builtins(value)
    return _without_nulls(built) if isinstance(value, (Struct, list)) else built


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value
