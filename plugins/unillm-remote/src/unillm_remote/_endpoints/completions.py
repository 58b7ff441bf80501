# SPDX-License-Identifier: Apache-2.0

"""``/v1/completions`` with ``return_token_ids``, as vLLM and `unillm serve` have it.

References:
    ``entrypoints/openai/completion`` of vLLM 0.32.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from typing_extensions import override

from unillm.backend import Capabilities, Capability, TokenLogprobs

from .._answers import AnswerError, Part, checked_ids, ranked, read_logprob, read_rank
from .base import (
    HOLDS_EOS,
    ONE_ID_BANNED,
    Call,
    Endpoint,
    Reader,
    Served,
    allowed_ids,
    list_of,
    object_of,
    refuse_sequences,
    refused,
)

if TYPE_CHECKING:
    from unillm.backend import EngineRequest, StructuredOutputs

TOKENISES = "the server makes its own token ids of a word, and not all of them"

NO_NOTATION = (
    "vLLM's server does not say which notation of grammars its backend reads; use "
    "json, regex or choice"
)

_WORDS_ALONE = "a body of unillm serve has words, not their ids"


def sampling_fields(request: EngineRequest, served: Served) -> dict[str, Any]:
    """Return the fields that vLLM and unillm call alike.

    Each is given, because a server has defaults of its own for those that are absent.
    """
    params = request.params
    fields: dict[str, Any] = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
        "max_tokens": request.max_new_tokens,
        # Without stop ids it does nothing, but a server may hold back EOS tokens.
        "min_tokens": params.min_tokens if request.stop_token_ids else 0,
        "stop_token_ids": sorted(request.stop_token_ids),
        # The ids above are all that end a request.
        "ignore_eos": True,
    }
    if params.logit_bias:
        fields["logit_bias"] = {str(i): bias for i, bias in params.logit_bias.items()}
    if (allowed := allowed_ids(request, served)) is not None:
        fields["allowed_token_ids"] = allowed
    return fields


def structure_fields(wanted: StructuredOutputs) -> dict[str, Any]:
    """Return a structure in the words of vLLM, which are unillm's."""
    fields = attrs.asdict(wanted, filter=lambda _, value: value not in (None, False))
    if wanted.choice is not None:
        fields["choice"] = list(wanted.choice)
    return fields


def seed_of(request: EngineRequest) -> int:
    """Return the seed of a request for `unillm serve`, to which -1 means none."""
    return 2**63 - 1 if request.seed == -1 else request.seed


def vllm_seed(request: EngineRequest) -> int:
    """Return the seed of a request for vLLM, whose server may compute on a CPU.

    torch's generator takes the lowest 32 bits of a seed there, so a longer seed becomes
    32 bits that depend on all of it, the same as in unillm's plugin for vLLM.
    """
    if 0 <= request.seed < 2**32:
        return request.seed
    return zlib.crc32((request.seed % 2**64).to_bytes(8, "little"))


class VllmCompletions(Endpoint):
    """The endpoint of vLLM."""

    kind = "vLLM"
    path = "/v1/completions"
    capabilities = Capabilities(
        fields={
            "cache_salt": Capability(),
            "bad_words": ONE_ID_BANNED,
            "bad_words.sequences": refused(TOKENISES),
            "min_tokens.ignored_eos": HOLDS_EOS,
            "structured_outputs.grammar": refused(NO_NOTATION),
            "logprobs": refused(
                "the answers of vLLM's /v1/completions have no ranks: start the server "
                "with --enable-scale-out, whose /inference/v1/generate has them"
            ),
        }
    )

    @override
    def call(self, request: EngineRequest, served: Served) -> Call:
        params = request.params
        body = {
            "model": served.model,
            "prompt": list(request.prompt_token_ids),
            "return_token_ids": True,
            **sampling_fields(request, served),
        }
        if params.seed is not None:  # a generator for each row costs vLLM time
            body["seed"] = vllm_seed(request)
        if params.structured_outputs is not None:
            body["structured_outputs"] = structure_fields(params.structured_outputs)
        if request.cache_salt is not None:
            body["cache_salt"] = request.cache_salt
        if params.prompt_logprobs is not None:  # which no stream of vLLM has
            body["prompt_logprobs"] = params.prompt_logprobs
            return Call(body=body, streamed=False)
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
        return Call(body=body, streamed=True)

    @override
    def reader(self, request: EngineRequest) -> Reader:
        return CompletionsReader(request)


class UnillmCompletions(Endpoint):
    """The endpoint of `unillm serve`."""

    kind = "unillm"
    path = "/v1/completions"
    capabilities = Capabilities(
        fields={
            "bad_words.sequences.ids": refused(_WORDS_ALONE),
            "cache_salt": refused("a body of unillm serve has no such field"),
        }
    )

    @override
    def call(self, request: EngineRequest, served: Served) -> Call:
        params = request.params
        body = {
            "model": served.model,
            "prompt": list(request.prompt_token_ids),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "seed": seed_of(request),
            **sampling_fields(request, served),
        }
        if params.bad_words:
            # The server makes the same ids of them, which one test of both tokenizers
            # at the start stands for.
            body["bad_words"] = params.bad_words
            if params.allowed_token_ids is None:
                body.pop("allowed_token_ids", None)
            else:
                body["allowed_token_ids"] = params.allowed_token_ids
        else:
            refuse_sequences(request, _WORDS_ALONE)
        if params.logprobs is not None:
            every = params.logprobs == -1
            body["logprobs"] = served.vocab_size if every else params.logprobs
        if params.prompt_logprobs is not None:
            body["prompt_logprobs"] = params.prompt_logprobs
        if params.structured_outputs is not None:
            # They end with an EOS token, which the server has to know as one.
            body["ignore_eos"] = False
            body["structured_outputs"] = structure_fields(params.structured_outputs)
        if request.priority:
            body["priority"] = request.priority
        return Call(body=body, streamed=True)

    @override
    def reader(self, request: EngineRequest) -> Reader:
        return CompletionsReader(request)


class CompletionsReader(Reader):
    """Reads chunks, and whole bodies, which have the same fields."""

    @override
    def read(self, event: Mapping[str, Any]) -> Part | None:
        cached = cached_tokens(event)
        choices = list_of(event.get("choices"), "choices")
        if not choices:  # the chunk with the counts
            return None if cached is None else Part(num_cached_tokens=cached)
        choice = object_of(choices[0], "a choice")
        params = self._request.params
        ids = choice.get("token_ids")
        if ids is None and choice.get("text"):
            raise AnswerError(
                "the server sent text without token ids: it, or a gateway before it, "
                "ignores return_token_ids"
            )
        ids = checked_ids(ids or [])
        check_prompt(choice.get("prompt_token_ids"), self._request)
        logprobs = None
        if ids and params.logprobs is not None:
            logprobs = _new_logprobs(choice.get("logprobs"), ids, params.logprobs)
        prompt_logprobs = None
        if (
            params.prompt_logprobs is not None
            and choice.get("prompt_logprobs") is not None
        ):
            prompt_logprobs = read_prompt_logprobs(
                choice["prompt_logprobs"],
                self._request.prompt_token_ids,
                params.prompt_logprobs,
            )
        return Part(
            token_ids=ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            end=choice.get("finish_reason"),
            num_cached_tokens=cached,
        )


def cached_tokens(event: Mapping[str, Any]) -> int | None:
    """Return how many tokens of the prompt came from a cache, if an event says so."""
    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
    found = details.get("cached_tokens")
    return found if type(found) is int and found >= 0 else None


def check_prompt(found: Any, request: EngineRequest) -> None:
    """Compare the prompt that a server says it computed with the given one.

    Raises:
        AnswerError: They differ.
    """
    if found is not None and tuple(checked_ids(found)) != request.prompt_token_ids:
        raise AnswerError("the server computed another prompt than the given one")


def _new_logprobs(found: Any, ids: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Read the log-probabilities of new tokens, named ``token_id:123``, with ranks."""
    found = object_of(found, "logprobs")
    own = list_of(found.get("token_logprobs"), "token_logprobs")
    tops = list_of(found.get("top_logprobs"), "top_logprobs")
    ranks = list_of(found.get("token_ranks"), "token_ranks")
    if not len(ids) == len(own) == len(tops) == len(ranks):
        raise AnswerError(f"{len(ids)} new ids have {len(own)} log-probabilities")
    return [
        ranked(
            read_logprob(logprob),
            read_rank(rank),
            {
                _named_id(name): read_logprob(value)
                for name, value in object_of(top, "top_logprobs").items()
            },
            count=count,
        )
        for logprob, rank, top in zip(own, ranks, tops, strict=True)
    ]


def _named_id(name: str) -> int:
    _, _, digits = name.partition("token_id:")
    if not digits.isdecimal():
        raise AnswerError(f"{name!r:.80} is not of the form token_id:123")
    return int(digits)


def read_prompt_logprobs(
    found: Any, ids: Sequence[int], count: int
) -> list[TokenLogprobs]:
    """Read those of all prompt tokens but the first: dicts by token id, with ranks."""
    rows = list_of(found, "prompt_logprobs")
    if len(rows) != len(ids):
        raise AnswerError(
            f"{len(ids)} tokens of the prompt have {len(rows)} log-probabilities"
        )
    read = []
    for token_id, row in zip(ids[1:], rows[1:], strict=True):
        entries = {
            int(name): object_of(entry, "an entry")
            for name, entry in object_of(row, "prompt_logprobs").items()
        }
        if token_id not in entries:
            raise AnswerError(f"prompt_logprobs lack the prompt's token {token_id}")
        values = {i: read_logprob(entry.get("logprob")) for i, entry in entries.items()}
        rank = read_rank(entries[token_id].get("rank"))
        read.append(ranked(values[token_id], rank, values, count=count))
    return read
