# SPDX-License-Identifier: Apache-2.0

"""llama.cpp's ``/completion``: ids in, ids out. Read in its sources, not run.

The answers are read whole: in a stream, llama.cpp leaves out the ids of tokens that are
parts of a character.

References:
    ``tools/server/README.md`` and ``tools/server/server-context.cpp`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.backend import Capabilities, Capability, Support

from .._answers import AnswerError, Part, checked_ids
from .base import (
    NOT_TRIED,
    Call,
    Endpoint,
    Reader,
    Served,
    banned_ids,
    refused,
)

if TYPE_CHECKING:
    from unillm.backend import EngineRequest

_SEEDS = 2**32 - 1
"""llama.cpp has so many seeds; this number itself asks for a random one."""

_ENDS = {"eos": "stop", "limit": "length"}

_NO_OPTION = refused("llama.cpp has no such option")
_NO_RANKS = refused("llama.cpp's answers have no ranks")
_COUNTS_THE_PROMPT = refused("llama.cpp counts the tokens of the prompt too")
_BY_BANS = Capability(
    support=Support.EMULATED,
    reason="the body bans every other id of the vocabulary",
)


class LlamaCppCompletion(Endpoint):
    """The endpoint of llama.cpp."""

    kind = "llama.cpp"
    path = "/completion"
    capabilities = Capabilities(
        fields={
            "stop_token_ids": Capability(
                support=Support.EMULATED,
                reason="llama.cpp goes on after them, and this side cuts the answer",
            ),
            "ignore_eos": refused(
                "llama.cpp bans EOS tokens instead of going on after them"
            ),
            "cache_salt": _NO_OPTION,
            "min_tokens": _NO_OPTION,
            "presence_penalty": _COUNTS_THE_PROMPT,
            "frequency_penalty": _COUNTS_THE_PROMPT,
            "logprobs": _NO_RANKS,
            "prompt_logprobs": _NO_RANKS,
            "allowed_token_ids": _BY_BANS,
            "bad_words.sequences": refused("llama.cpp bans single tokens alone"),
            "structured_outputs": NOT_TRIED,
        }
    )

    @override
    def tokenize_body(self, text: str, served: Served) -> dict[str, Any]:
        return {"content": text, "add_special": True, "parse_special": True}

    @override
    def call(self, request: EngineRequest, served: Served) -> Call:
        params = request.params
        body: dict[str, Any] = {
            "model": served.model,
            "prompt": list(request.prompt_token_ids),
            "return_tokens": True,
            "n_predict": request.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": max(params.top_k, 0),
            "min_p": params.min_p,
            "repeat_penalty": params.repetition_penalty,
            "repeat_last_n": -1,
            "seed": request.seed % _SEEDS,
            # The order of vLLM; llama.cpp's own filters before the temperature.
            "samplers": ["penalties", "temperature", "min_p", "top_k", "top_p"],
        }
        biases = [[i, bias] for i, bias in params.logit_bias.items()]
        biases += [[i, False] for i in banned_ids(request, served)]
        if biases:
            body["logit_bias"] = biases
        return Call(body=body, streamed=False)

    @override
    def reader(self, request: EngineRequest) -> Reader:
        return LlamaCppReader(request)


class LlamaCppReader(Reader):
    """Reads a whole answer."""

    @override
    def read(self, event: Mapping[str, Any]) -> Part | None:
        ids = checked_ids(event.get("tokens"))
        if not ids:
            raise AnswerError("the server sent no token ids")
        end = str(event.get("stop_type"))
        limit = self._request.max_new_tokens
        if len(ids) > limit:  # it completes a character
            return Part(token_ids=ids[:limit], end="length")
        return Part(token_ids=ids, end=_ENDS.get(end, end))
