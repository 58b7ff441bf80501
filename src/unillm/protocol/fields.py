# SPDX-License-Identifier: Apache-2.0

"""Fields of OpenAI's and vLLM's requests that the bodies lack, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

TOLERATED = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_interval",
        "user",
    }
)
"""Fields that cannot change the answer. They are accepted, and the header
``X-Unillm-Ignored`` of the response names them."""


@attrs.frozen
class Refused:
    """A field that would change the answer and is not honoured."""

    reason: str
    harmless: tuple[Any, ...] = ()
    """Values, besides null, that ask for what the server does anyway."""


_BEAM = Refused("no backend has beam search", (False,))
_GUIDED = "vLLM renamed it; send structured_outputs or response_format"
_MEDIA = "the server takes and returns text alone"
_STATE = "the server keeps no conversations; send the whole of it in input"
_OLD_TOOLS = "OpenAI replaced it by tools and tool_choice; send those"

REFUSED: Mapping[str, Refused] = {
    "audio": Refused(_MEDIA),
    "background": Refused(_STATE, (False,)),
    "conversation": Refused(_STATE),
    "context_management": Refused(_STATE),
    "max_tool_calls": Refused("the server does not call tools itself"),
    "previous_response_id": Refused(_STATE),
    "prompt": Refused("the server keeps no prompt templates; send input"),
    "best_of": Refused("ask for n completions and take the one you want", (1,)),
    "cache_salt": Refused("the prefix cache is one for all requests"),
    "echo": Refused(
        "/v1/completions has it; a chat returns the answer alone", (False,)
    ),
    "function_call": Refused(_OLD_TOOLS, ("none",)),
    "functions": Refused(_OLD_TOOLS, ([],)),
    "guided_choice": Refused(_GUIDED),
    "guided_decoding_backend": Refused(_GUIDED),
    "guided_grammar": Refused(_GUIDED),
    "guided_json": Refused(_GUIDED),
    "guided_regex": Refused(_GUIDED),
    "guided_whitespace_pattern": Refused(_GUIDED),
    "kv_transfer_params": Refused("no backend moves caches between engines"),
    "length_penalty": Refused(_BEAM.reason, (1, 1.0)),
    "logits_processors": Refused("a request cannot bring code"),
    "mm_processor_kwargs": Refused(_MEDIA, ({},)),
    "modalities": Refused(_MEDIA, (["text"],)),
    "moderation": Refused("the server does not moderate"),
    "prompt_embeds": Refused("prompts are text or token ids"),
    "repetition_detection": Refused("no backend detects repetition"),
    "return_prompt_text": Refused("/detokenize returns the text of prompt_token_ids"),
    "suffix": Refused("no backend fills in the middle", ("",)),
    "thinking_token_budget": Refused("no backend counts tokens of reasoning apart"),
    "use_beam_search": _BEAM,
    "verbosity": Refused("no template has it; say it in a message", ("medium",)),
    "vllm_xargs": Refused(
        "a body holds no arguments for an engine's own processors", ({},)
    ),
    "web_search_options": Refused("the server does not search the web"),
}
"""Fields that change the answer."""
