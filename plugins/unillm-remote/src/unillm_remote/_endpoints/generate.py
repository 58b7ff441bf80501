# SPDX-License-Identifier: Apache-2.0

"""vLLM's ``/inference/v1/generate``: ids in, ids out, with ranks.

The server has it if it was started with ``--enable-scale-out`` or ``--tokens-only``.

References:
    ``entrypoints/scale_out/token_in_token_out`` of vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.backend import Capabilities, Capability, TokenLogprobs

from .._answers import (
    AnswerError,
    Part,
    checked_ids,
    ranked,
    read_logprob,
    read_rank,
)
from .base import (
    HOLDS_EOS,
    ONE_ID_BANNED,
    Call,
    Endpoint,
    Reader,
    Served,
    list_of,
    object_of,
    refused,
)
from .completions import (
    NO_NOTATION,
    TOKENISES,
    cached_tokens,
    check_prompt,
    read_prompt_logprobs,
    sampling_fields,
    structure_fields,
    vllm_seed,
)

if TYPE_CHECKING:
    from unillm.backend import EngineRequest


class VllmGenerate(Endpoint):
    """The endpoint of vLLM."""

    kind = "vLLM"
    path = "/inference/v1/generate"
    capabilities = Capabilities(
        fields={
            "cache_salt": Capability(),
            "bad_words": ONE_ID_BANNED,
            "bad_words.sequences": refused(TOKENISES),
            "min_tokens.ignored_eos": HOLDS_EOS,
            "structured_outputs.grammar": refused(NO_NOTATION),
        }
    )

    @override
    def call(self, request: EngineRequest, served: Served) -> Call:
        params = request.params
        fields = sampling_fields(request, served)
        fields["detokenize"] = False
        if params.seed is not None:  # a generator for each row costs vLLM time
            fields["seed"] = vllm_seed(request)
        if params.structured_outputs is not None:
            fields["structured_outputs"] = structure_fields(params.structured_outputs)
        if (count := params.logprobs) is not None:
            # An answer has as many entries as were asked for, with the chosen token's,
            # which takes the place of the last one.
            whole = count == -1 or count + 1 >= served.vocab_size
            fields["logprobs"] = -1 if whole else count + 1 if count else 0
        body: dict[str, Any] = {
            "model": served.model,
            "token_ids": list(request.prompt_token_ids),
            "sampling_params": fields,
            "return_token_ids": True,
        }
        if request.cache_salt is not None:
            body["cache_salt"] = request.cache_salt
        if params.prompt_logprobs is not None:  # which no stream of vLLM has
            fields["prompt_logprobs"] = params.prompt_logprobs
            return Call(body=body, streamed=False)
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
        return Call(body=body, streamed=True)

    @override
    def reader(self, request: EngineRequest) -> Reader:
        return GenerateReader(request)


class GenerateReader(Reader):
    """Reads chunks, and whole bodies, which have the same fields."""

    @override
    def read(self, event: Mapping[str, Any]) -> Part | None:
        params = self._request.params
        cached = cached_tokens(event)
        check_prompt(event.get("prompt_token_ids"), self._request)
        choices = list_of(event.get("choices"), "choices")
        if not choices:  # the chunk with the counts
            return None if cached is None else Part(num_cached_tokens=cached)
        choice = object_of(choices[0], "a choice")
        ids = checked_ids(choice.get("token_ids") or [])
        logprobs = None
        if ids and params.logprobs is not None:
            logprobs = _new_logprobs(choice.get("logprobs"), ids, params.logprobs)
        prompt_logprobs = None
        if (found := event.get("prompt_logprobs")) is not None:
            prompt_logprobs = read_prompt_logprobs(
                found, self._request.prompt_token_ids, params.prompt_logprobs or 0
            )
        return Part(
            token_ids=ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            end=choice.get("finish_reason"),
            num_cached_tokens=cached,
        )


def _new_logprobs(found: Any, ids: Sequence[int], count: int) -> list[TokenLogprobs]:
    rows = list_of(object_of(found, "logprobs").get("content"), "content")
    if [row.get("token_id") for row in rows] != list(ids):
        raise AnswerError("the log-probabilities belong to other ids")
    return [
        ranked(
            read_logprob(row.get("logprob")),
            read_rank(row.get("rank")),
            {
                each["token_id"]: read_logprob(each.get("logprob"))
                for each in list_of(row.get("top_logprobs"), "top_logprobs")
            },
            count=count,
        )
        for row in rows
    ]
