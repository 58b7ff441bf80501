# SPDX-License-Identifier: Apache-2.0

"""SGLang's ``/generate``: ids in, ids out. Read in its sources, not run.

References:
    ``srt/managers/io_struct.py``, ``srt/managers/tokenizer_manager.py``,
    ``srt/managers/schedule_batch.py`` and ``srt/sampling`` of SGLang 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.backend import Capabilities, Capability, Support

from .._answers import AnswerError, Part, checked_ids
from .base import (
    HOLDS_EOS,
    NOT_TRIED,
    Call,
    Endpoint,
    Reader,
    Served,
    object_of,
    refused,
)

if TYPE_CHECKING:
    from unillm.backend import EngineRequest

_NO_FIELD = refused("a body of SGLang's /generate has no such field")
_NO_RANKS = refused(
    "SGLang's answers have no ranks, and their log-probabilities follow the temperature"
)


class SglangGenerate(Endpoint):
    """The endpoint of SGLang."""

    kind = "SGLang"
    path = "/generate"
    capabilities = Capabilities(
        fields={
            "ignore_eos": Capability(
                support=Support.EMULATED,
                reason="SGLang then ignores stop_token_ids too: this side stops at "
                "them and closes the stream",
            ),
            "min_tokens.ignored_eos": HOLDS_EOS,
            "repetition_penalty": refused("SGLang's penalty leaves out the prompt"),
            "seed": refused(
                "SGLang's sampling_seed works only under "
                "--enable-deterministic-inference, and no answer says so"
            ),
            "logprobs": _NO_RANKS,
            "prompt_logprobs": _NO_RANKS,
            "cache_salt": _NO_FIELD,
            "allowed_token_ids": _NO_FIELD,
            "bad_words": _NO_FIELD,
            "structured_outputs": NOT_TRIED,
        }
    )

    @override
    def call(self, request: EngineRequest, served: Served) -> Call:
        params = request.params
        fields: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "repetition_penalty": 1.0,
            "max_new_tokens": request.max_new_tokens,
            "min_new_tokens": params.min_tokens if request.stop_token_ids else 0,
            "stop_token_ids": sorted(request.stop_token_ids),
            "ignore_eos": params.ignore_eos,
        }
        if params.logit_bias:
            fields["logit_bias"] = {str(i): b for i, b in params.logit_bias.items()}
        body = {
            "input_ids": list(request.prompt_token_ids),
            "sampling_params": fields,
            "stream": True,
        }
        return Call(body=body, streamed=True)

    @override
    def reader(self, request: EngineRequest) -> Reader:
        return SglangReader(request)


class SglangReader(Reader):
    """Reads events, whose ids are all so far, or with a flag of the server new ones."""

    def __init__(self, request: EngineRequest) -> None:
        super().__init__(request)
        self._seen = 0

    @override
    def read(self, event: Mapping[str, Any]) -> Part | None:
        about = object_of(event.get("meta_info"), "meta_info")
        found = event.get("output_ids")
        ids = [] if found is None else checked_ids(found)
        total = about.get("completion_tokens")
        if type(total) is not int:
            raise AnswerError(
                f"completion_tokens must be an integer, got {total!r:.80}"
            )
        new = total - self._seen
        if found is not None:
            if new < 0 or len(ids) not in (new, total):
                raise AnswerError(
                    f"{len(ids)} ids are neither the {new} new ones nor all {total}"
                )
            ids = ids[len(ids) - new :]
            self._seen = total
        cached = about.get("cached_tokens")
        return Part(
            token_ids=ids,
            end=_end(about.get("finish_reason")),
            num_cached_tokens=cached if type(cached) is int else None,
        )


def _end(reason: Any) -> str | None:
    if reason is None:
        return None
    reason = object_of(reason, "finish_reason")
    kind = str(reason.get("type"))
    said = reason.get("message")
    return f"{kind}: {said}" if said and kind not in ("stop", "length") else kind
