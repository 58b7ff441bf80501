# SPDX-License-Identifier: Apache-2.0

"""A request as vLLM's objects.

The stop ids of the core are complete, so vLLM adds none, and stop strings and
detokenising stay in the core. Imports vLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from unillm.backend import structure_notation
from unillm.errors import InvalidParameterError

from ._generators import on_cpu, seed_for_cpu
from ._guidance import LONGEST_ROW, longest_rule

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
    def _validate_logprobs(self, model_config: Any) -> None:
        """Check nothing; the core asks for more than the user may."""

    @override
    def update_from_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        """Tokenise nothing."""


def sampling_params(
    request: EngineRequest, *, spells_exactly: bool
) -> CoreSamplingParams:
    """Return the sampling params of a request.

    Without a seed of the user, a request draws from the engine's generator, as in vLLM:
    a generator for each row costs time in each step.

    Args:
        request: From the core.
        spells_exactly: `VllmGuidance.spells_exactly` of the engine's tokenizer.
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
            else structured_outputs(
                params.structured_outputs, spells_exactly=spells_exactly
            )
        ),
        extra_args=params.extra_args,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,  # no other request uses this object
    )


def _seed(seed: int) -> int:
    """Return a seed for vLLM, to which -1 means none."""
    if on_cpu():
        return seed_for_cpu(seed)
    return 2**63 - 1 if seed == -1 else seed


def structured_outputs(
    wanted: StructuredOutputs, *, spells_exactly: bool
) -> StructuredOutputsParams:
    """Return the structure for vLLM's backend "guidance".

    That is llguidance, as in the core, and it gets the text that the core compiles, so
    a structure means the same.

    Raises:
        InvalidParameterError: A rule has more alternatives than vLLM can follow.
    """
    notation = structure_notation(wanted)
    if notation.kind == "lark" and longest_rule(notation.text) > LONGEST_ROW:
        raise InvalidParameterError(
            f"The grammar has a rule with {longest_rule(notation.text)} alternatives, "
            f"and vLLM's llguidance follows at most {LONGEST_ROW}. Make the rule a "
            "terminal, with a name in capitals, or use choice.",
            parameter="structured_outputs",
            value=None,
        )
    if not spells_exactly:
        return StructuredOutputsParams(grammar=notation.unforced())
    if notation.kind == "lark":
        # By this line vLLM knows Lark, however the first rule begins.
        return StructuredOutputsParams(grammar=f"%llguidance {{}}\n{notation.text}")
    if notation.kind == "json":
        return StructuredOutputsParams(json=notation.text)
    return StructuredOutputsParams(regex=notation.text)


def lora_request(own: CoreLoRARequest | None) -> LoRARequest | None:
    """Return vLLM's object of an adapter."""
    if own is None:
        return None
    return LoRARequest(
        lora_name=own.lora_name,
        lora_int_id=own.lora_int_id,
        lora_path=own.lora_path,
    )
