# SPDX-License-Identifier: Apache-2.0

"""``/v1/completions``: prompts of a body, and outputs as its choices and chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from typing_extensions import override

from ..errors import InvalidParameterError
from ..outputs import CompletionDelta, RequestOutput
from .bodies import CompletionBody
from .tokens import (
    CompletionLogprobs,
    Entries,
    completion_logprobs,
    prompt_logprobs_json,
)
from .writer import Answering, ChunkWriter, Usage, event, or_unset

FinishReason = Literal["stop", "length"]


class CompletionChoice(Struct, kw_only=True):
    """One completion of one prompt, or a new part of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: list[Any] | UnsetType = UNSET


class Completion(Struct, kw_only=True):
    """Body of the answer, or one chunk of it."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"
    usage: Usage | UnsetType = UNSET


def completion_prompts(body: CompletionBody) -> list[str | list[int]]:
    """Return the prompts of a body: texts, or lists of token ids.

    Raises:
        InvalidParameterError: There is none, or the list mixes kinds.
    """
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(type(each) is int for each in prompt):
        return [prompt]
    if prompt and all(isinstance(each, str) for each in prompt):
        return prompt
    if prompt and all(
        isinstance(each, list) and all(type(one) is int for one in each)
        for each in prompt
    ):
        return prompt
    raise InvalidParameterError(
        "prompt must be a text, a list of texts, a list of token ids or a list of such "
        "lists, with at least one entry.",
        parameter="prompt",
        value=None,
    )


class CompletionWriter(ChunkWriter):
    """Outputs as choices. The index of a choice is prompt · n + completion.

    Args:
        answering: Facts of the request.
        body: The request.
        prompts: Text and token ids of each prompt.
        decode: Returns the text of token ids, special tokens included.
    """

    def __init__(
        self,
        answering: Answering,
        body: CompletionBody,
        *,
        prompts: Sequence[tuple[str, Sequence[int]]],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        super().__init__(
            answering,
            prompt_token_ids=[ids for _, ids in prompts],
            stream_options=body.stream_options,
            as_ids=body.return_tokens_as_token_ids,
        )
        self._body = body
        self._texts = [text for text, _ in prompts]
        self._decode = decode
        self._offsets: dict[int, int] = {}  # characters of each started choice
        self._only_prompt = bool(body.echo and body.max_tokens == 0)

    @override
    def whole(self, outputs: Sequence[RequestOutput]) -> Completion:
        choices = []
        for prompt, output in enumerate(outputs):
            for each in output.outputs:
                delta = CompletionDelta(
                    index=each.index,
                    text=each.text,
                    token_ids=each.token_ids,
                    logprobs=each.logprobs,
                    finish_reason=each.finish_reason,
                    stop_reason=each.stop_reason,
                )
                choices.append(self._choice(prompt, delta, partial(_same, output)))
        return self._body_of(choices, usage=self._usage(outputs))

    @override
    def begin(self) -> bytes:
        return b""

    @override
    def delta(
        self, prompt: int, delta: CompletionDelta, so_far: Callable[[], RequestOutput]
    ) -> bytes:
        self._num_new += 0 if self._only_prompt else len(delta.token_ids)
        first = self._index(prompt, delta) not in self._offsets
        choice = self._choice(prompt, delta, so_far)
        shown = choice.text or choice.logprobs or choice.finish_reason
        if not (shown or choice.token_ids or (first and self._body.return_token_ids)):
            return b""
        return event(self._body_of([choice], usage=self._usage_so_far()))

    @override
    def _usage_chunk(self, usage: Usage) -> Struct:
        return self._body_of([], usage=usage)

    @override
    def _usage(self, outputs: Sequence[RequestOutput]) -> Usage:
        if self._only_prompt:
            return self._counts(0)
        return super()._usage(outputs)

    def _body_of(
        self, choices: list[CompletionChoice], *, usage: Usage | UnsetType
    ) -> Completion:
        facts = self._facts
        return Completion(
            id=f"cmpl-{facts.request_id}",
            created=facts.created,
            model=facts.model,
            choices=choices,
            usage=usage,
        )

    def _index(self, prompt: int, delta: CompletionDelta) -> int:
        return prompt * self._facts.num_choices + delta.index

    def _choice(
        self, prompt: int, delta: CompletionDelta, so_far: Callable[[], RequestOutput]
    ) -> CompletionChoice:
        """Return a choice; the first one of an index begins with what is echoed."""
        body, index = self._body, self._index(prompt, delta)
        first = index not in self._offsets
        text, ids = delta.text, delta.token_ids
        logprobs: list[Entries | None] = list(delta.logprobs or ())
        if self._only_prompt:
            text, ids, logprobs = "", [], []
        if first and body.echo:
            text = self._texts[prompt] + text
        shown: CompletionLogprobs | None = None
        offset = self._offsets.get(index, 0)
        if body.logprobs is not None:
            of_text = ids
            if first and body.echo:
                prompt_ids = list(self._prompt_token_ids[prompt])
                of_text = prompt_ids + ids
                logprobs = [*(so_far().prompt_logprobs or ()), *logprobs]
            shown, offset = completion_logprobs(
                of_text,
                logprobs,
                texts=[self._decode(of_text[:1])] if first and body.echo else (),
                offset=offset,
                as_ids=self._as_ids,
            )
        self._offsets[index] = offset
        choice = CompletionChoice(
            index=index,
            text=text,
            logprobs=shown,
            finish_reason="length" if self._only_prompt else _reason(delta),
            stop_reason=None if self._only_prompt else delta.stop_reason,
            token_ids=or_unset(ids, body.return_token_ids),
        )
        if first and body.return_token_ids:
            choice.prompt_token_ids = list(self._prompt_token_ids[prompt])
        if first and body.prompt_logprobs is not None:
            found = so_far().prompt_logprobs or ()
            choice.prompt_logprobs = prompt_logprobs_json(found)
        return choice


def _same(output: RequestOutput) -> RequestOutput:
    return output


def _reason(delta: CompletionDelta) -> FinishReason | None:
    """Return the reason in OpenAI's words; a failed request has raised before."""
    return (
        "length" if delta.finish_reason == "length" else delta.finish_reason and "stop"
    )
