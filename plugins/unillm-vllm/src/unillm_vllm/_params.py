# SPDX-License-Identifier: Apache-2.0

"""A request as vLLM's objects.

The stop ids of the core are complete, so vLLM adds none, and stop strings and
detokenising stay in the core. Imports vLLM.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

if TYPE_CHECKING:
    from unillm.backend import EngineRequest, StructuredOutputs
    from unillm.backend import LoRARequest as CoreLoRARequest


class CoreSamplingParams(SamplingParams):  # type: ignore[misc]  # vLLM has no types
    """Complete sampling params.

    vLLM would add the EOS tokens of ``generation_config.json`` and of its tokenizer,
    and tokenise bad words; the core has done both, equally for all engines.
    """

    @override
    def update_from_generation_config(self, *args: Any, **kwargs: Any) -> None:
        """Add no EOS tokens."""

    @override
    def update_from_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        """Tokenise nothing."""


def sampling_params(request: EngineRequest) -> CoreSamplingParams:
    """Return the sampling params of a request.

    Without a seed of the user, a request draws from the engine's generator, as in vLLM:
    a generator for each row costs time in each step.
    """
    params = request.params
    return CoreSamplingParams(
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=None if params.seed is None else _seed(request.seed),
        stop_token_ids=sorted(request.stop_token_ids),
        ignore_eos=True,
        max_tokens=request.max_new_tokens,
        min_tokens=params.min_tokens,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        logit_bias=params.logit_bias or None,
        allowed_token_ids=(
            None if params.allowed_token_ids is None else list(params.allowed_token_ids)
        ),
        # vLLM would fill this field by tokenising `bad_words`.
        _bad_words_token_ids=[list(ids) for ids in request.bad_words_token_ids] or None,
        structured_outputs=(
            None
            if params.structured_outputs is None
            else structured_outputs(params.structured_outputs)
        ),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,  # no other request uses this object
    )


def _seed(seed: int) -> int:
    """Return a seed for vLLM, to which -1 means none."""
    return 2**63 - 1 if seed == -1 else seed


def structured_outputs(wanted: StructuredOutputs) -> StructuredOutputsParams:
    """Return the structure for vLLM's backend "guidance".

    That is llguidance, as in the core, so a structure means the same. Options of JSON
    go into the schema: vLLM has them for the whole engine only.
    """
    if wanted.kind in ("json", "json_object"):
        schema = json.loads(wanted.source)
        options: dict[str, Any] = {}
        if wanted.disable_any_whitespace:
            options = {
                "whitespace_flexible": False,
                "item_separator": ",",
                "key_separator": ":",
            }
        elif wanted.whitespace_pattern is not None:
            options = {"whitespace_pattern": wanted.whitespace_pattern}
        if options:
            schema["x-guidance"] = {**schema.get("x-guidance", {}), **options}
        return StructuredOutputsParams(json=json.dumps(schema))
    if wanted.kind == "choice":
        return StructuredOutputsParams(choice=list(wanted.choice or ()))
    return StructuredOutputsParams(**{wanted.kind: wanted.source})


def lora_request(own: CoreLoRARequest | None) -> LoRARequest | None:
    """Return vLLM's object of an adapter."""
    if own is None:
        return None
    return LoRARequest(
        lora_name=own.lora_name,
        lora_int_id=own.lora_int_id,
        lora_path=own.lora_path,
    )
