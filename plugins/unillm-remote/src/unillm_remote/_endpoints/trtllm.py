# SPDX-License-Identifier: Apache-2.0

"""``/v1/completions`` of ``trtllm-serve``. Read in its sources, not run.

References:
    ``serve/openai_protocol.py``, ``serve/postprocess_handlers.py`` and
    ``executor/result.py`` of TensorRT-LLM 1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.backend import Capabilities

from .base import NOT_TRIED, Call, Endpoint, Reader, Served, refused
from .completions import CompletionsReader

if TYPE_CHECKING:
    from unillm.backend import EngineRequest

_NO_FIELD = refused("a body of trtllm-serve has no such field")
_NO_RANKS = refused("the answers of trtllm-serve have no ranks, and no ids beside them")
_VARIES = refused(
    "versions and samplers of TensorRT-LLM differ in it, and the server does not say "
    "which one draws"
)


class TrtllmCompletions(Endpoint):
    """The endpoint of ``trtllm-serve``."""

    kind = "trtllm-serve"
    path = "/v1/completions"
    tokenize_path = "/_internal/tokenize"
    capabilities = Capabilities(
        fields={
            "presence_penalty": _VARIES,
            "frequency_penalty": _VARIES,
            "repetition_penalty": _VARIES,
            "min_p": _VARIES,
            "seed": _VARIES,
            "top_k.large": _VARIES,
            "min_tokens": refused(
                "TensorRT-LLM's min_tokens holds back a single token id, which a "
                "request does not name"
            ),
            "logprobs": _NO_RANKS,
            "cache_salt": _NO_FIELD,
            "prompt_logprobs": _NO_FIELD,
            "allowed_token_ids": _NO_FIELD,
            "bad_words": _NO_FIELD,
            "structured_outputs": NOT_TRIED,
        }
    )

    @override
    def tokenize_body(self, text: str, served: Served) -> dict[str, Any]:
        return {"model": served.model, "prompt": text}

    @override
    def call(self, request: EngineRequest, served: Served) -> Call:
        params = request.params
        body: dict[str, Any] = {
            "model": served.model,
            "prompt": list(request.prompt_token_ids),
            "detokenize": False,  # only then its answers have ids
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": max(params.top_k, 0),
            "max_tokens": request.max_new_tokens,
            "stop_token_ids": sorted(request.stop_token_ids),
            "include_stop_str_in_output": True,  # the id that ends, too
            "ignore_eos": True,  # the ids above are all that end a request
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if params.logit_bias:
            body["logit_bias"] = {str(i): b for i, b in params.logit_bias.items()}
        return Call(body=body, streamed=True)

    @override
    def reader(self, request: EngineRequest) -> Reader:
        return CompletionsReader(request)
