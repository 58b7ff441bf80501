# SPDX-License-Identifier: Apache-2.0

"""The sampling fields that each entry path honours, with the reasons for the others.

A field is declared where the sources of TensorRT-LLM show that the installed version
honours it with vLLM's meaning. ``docs/reference/tensorrt-llm.md`` has the table, which
``scripts/tensorrt_llm_fields.py`` writes from this module.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from unillm.backend import SAMPLING_FIELDS, Capabilities, Capability, Support

from ._entry_paths import Installed
from ._sampler import Sampler, TorchSampler

Fields = dict[str, Capability]

NATIVE = Capability()

_BY_BIAS = Capability(
    support=Support.EMULATED, reason="a bias of -1e9 on all other tokens"
)


def _not(reason: str) -> Capability:
    return Capability(support=Support.UNSUPPORTED, reason=reason)


EVERYWHERE: Mapping[str, Capability] = {
    **dict.fromkeys(SAMPLING_FIELDS, NATIVE),
    "bad_words.sequences": _not(
        "it bans a word of several tokens also where the word begins in the prompt, "
        "or takes single ids alone"
    ),
    "min_tokens.stop_ids": _not(
        "its min_tokens holds back a single token id, and the request has several. "
        "Pass ignore_eos=True and one id in stop_token_ids"
    ),
    "min_p.top_p": _not(
        "no source says which of them its samplers apply first, and the order decides "
        "which tokens stay"
    ),
    "logprobs.changed": _not(
        "biases, penalties and bans are in the logits before it reads log-probabilities"
    ),
}
"""Every field, but for the aspects that no version has."""

_VARIES = (
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "seed",
    "logprobs",
    "prompt_logprobs",
    "structured_outputs",
    "top_k.large",
    "lora",
)
"""Fields that some versions or entry paths honour and others do not."""

CAPABILITIES = Capabilities(
    fields={
        **EVERYWHERE,
        **dict.fromkeys(_VARIES, _not("the installed version decides; load a model")),
    }
)
"""Those of the backend, before an engine shows what its version has."""

_COMMON: Mapping[str, Capability] = {**EVERYWHERE, **dict.fromkeys(_VARIES, NATIVE)}
"""Where each entry path begins."""

_TORCH_LATER = "TorchSampler has it from about TensorRT-LLM 1.3.0rc24 on"
_CPP_HAS_IT = "the C++ decoder of TensorRT-LLM 1.0 to 1.3.0rc24 has it"

_COUNTS_THE_PROMPT = _not(
    "the C++ decoder counts the tokens of the prompt too. TorchSampler, from about "
    "TensorRT-LLM 1.3.0rc24 on, can leave them out"
)
_LARGE_TOP_K = _not(
    "the C++ decoder cuts it to 1024 with a warning in its log; TorchSampler, which "
    "draws from TensorRT-LLM 1.2 on, does not"
)
_NO_MIN_P = _not("this version's SamplingParams has no min_p; 1.0 and later have it")
_NO_BIAS = _not("this version's SamplingParams has no embedding_bias")
_NO_DRAWS = _not(
    "this version's TorchSampler takes the most probable token, whatever temperature, "
    "top_k and top_p are. TensorRT-LLM 1.2 and later draw, and so does the C++ decoder "
    "where the LLM class can choose it (1.0 to 1.3.0rc24)"
)
_SEED_OF_THE_BATCH = _not(
    "TorchSampler draws for all requests of a batch from one seed, so a request does "
    f"not repeat beside others; {_CPP_HAS_IT}"
)
_TORCH_IGNORES = _not(
    f"this version's TorchSampler ignores it without an error; {_TORCH_LATER}, and "
    f"{_CPP_HAS_IT}"
)
_TORCH_IGNORES_MIN_P = _not(
    "this version's TorchSampler ignores it without an error; later ones, of August "
    f"2026 on, do not, and {_CPP_HAS_IT}"
)
_CPP_LOGPROBS = _not(
    "no source says whether those of the C++ decoder are before temperature; "
    "TorchSampler with logprobs_mode, in candidates of 1.3 and later, says so"
)
_NO_LOGPROBS_MODE = _not(
    "this version has no logprobs_mode, so no source says whether they are those "
    "before temperature; candidates of 1.3 and later have it"
)
_WITH_SPECULATION = _not(
    "no source says that speculative decoding honours it; create the Generator "
    "without speculative_config"
)
_SAME_DRAWS = _not(
    "with speculative decoding the requests of a batch may draw the same random "
    "numbers, so completions of one prompt would be equal (issue #19487)"
)
_GREEDY_SPECULATION = _not(
    "this version's speculative decoding is greedy, whatever the temperature is: its "
    "configuration has no allow_advanced_sampling, which 1.2 and later have"
)
_SPECULATION_ON_ENGINES = _not(
    "no source says that speculation on engines keeps the temperature's distribution"
)
_NO_GUIDANCE = _not(
    "its guided decoding needs a tokenizer of its own. Pass backend_options="
    '{"guided_decoding_backend": "llguidance"}'
)
_NO_GUIDANCE_ON_ENGINES = _not(
    "with engines its guided decoding knows the dialects of xgrammar alone; "
    "TensorRT-LLM on PyTorch has llguidance too"
)
_NEEDS_NO_REUSE = _not(
    "cached positions are missing from it. Create the Generator with "
    "enable_prefix_caching=False"
)
_NEEDS_ONE_CHUNK = _not(
    "no source says that the positions of several prefill chunks are joined. Create "
    "the Generator with max_num_batched_tokens of at least max_model_len"
)
_RUNNER_HAS_NO_BIAS = _not("the runners take no bias; use the LLM API")
_RUNNER_MIN_TOKENS = _not(
    "the runners count it anew in each run; use the LLM API, of TensorRT-LLM 0.12 on"
)
_RUNNER_DROPS_SEEDS = _not(
    "this version's ModelRunnerCpp drops random_seed, so all requests draw the same "
    "random numbers; others than 0.13 take it, and so does the LLM API of 0.13"
)
_NO_LORA = _not(
    "the plugin loads adapters on PyTorch alone, from TensorRT-LLM 1.0 on, where its "
    "LoraConfig and LoRARequest can be imported"
)

_LOGITS = (
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_p",
    "seed",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "min_tokens",
    "logprobs",
    "prompt_logprobs",
    "structured_outputs",
)
"""Fields of which no source says that speculative decoding honours them."""


@attrs.frozen(kw_only=True)
class PytorchOptions:
    """Options of an LLM on PyTorch that decide about its fields."""

    sampler: Sampler
    speculates: bool = False
    """Whether tokens are drafted."""
    draws_speculatively: bool = False
    """Whether drafting honours the temperature."""
    block_reuse: bool = True
    chunked: bool = False
    """Whether a prompt may be computed in several steps."""
    guided: bool = False
    """Whether it was loaded with llguidance."""
    lora: bool = True
    """Whether the classes of adapters can be imported."""


def on_pytorch(installed: Installed, options: PytorchOptions) -> Capabilities:
    """Return the capabilities of ``tensorrt_llm.LLM`` on PyTorch."""
    found: Fields = {
        **_COMMON,
        "allowed_token_ids": _BY_BIAS,
        "lora": NATIVE if options.lora else _NO_LORA,
    }
    found["structured_outputs"] = NATIVE if options.guided else _NO_GUIDANCE
    if options.speculates:
        found |= dict.fromkeys(_LOGITS, _WITH_SPECULATION)
        found["n"] = _SAME_DRAWS
        if not options.draws_speculatively:
            found["temperature"] = _GREEDY_SPECULATION
        return Capabilities(fields=found)
    params = installed.params_fields
    if options.sampler is Sampler.CPP:
        return Capabilities(fields={**found, **_cpp(params)})
    found |= _torch(params, TorchSampler.look())
    if "logprobs_mode" in params and "prompt_logprobs" in params:
        if options.block_reuse:
            found["prompt_logprobs"] = _NEEDS_NO_REUSE
        elif options.chunked:
            found["prompt_logprobs"] = _NEEDS_ONE_CHUNK
    return Capabilities(fields=found)


def on_engines(installed: Installed, *, speculates: bool) -> Capabilities:
    """Return the capabilities of the LLM class that runs engines."""
    found: Fields = {
        **_COMMON,
        "allowed_token_ids": _BY_BIAS,
        **_cpp(installed.params_fields),
        "structured_outputs": _NO_GUIDANCE_ON_ENGINES,
        "lora": _NO_LORA,
    }
    if speculates:
        found["temperature"] = _SPECULATION_ON_ENGINES
    return Capabilities(fields=found)


def on_runners(*, takes_seeds: bool) -> Capabilities:
    """Return the capabilities of ``ModelRunner`` and ``ModelRunnerCpp``."""
    found: Fields = {
        **_COMMON,
        **_cpp(frozenset({"embedding_bias"})),
        "min_p": _not("the runners take no min_p; use the LLM API of 1.0 or later"),
        "logit_bias": _RUNNER_HAS_NO_BIAS,
        "allowed_token_ids": _RUNNER_HAS_NO_BIAS,
        "min_tokens": _RUNNER_MIN_TOKENS,
        "structured_outputs": _NO_GUIDANCE_ON_ENGINES,
        "lora": _NO_LORA,
    }
    if not takes_seeds:
        found |= dict.fromkeys(("temperature", "seed"), _RUNNER_DROPS_SEEDS)
    return Capabilities(fields=found)


def _cpp(params: frozenset[str]) -> Fields:
    """Return the fields that the C++ decoder does not honour."""
    found = {
        "presence_penalty": _COUNTS_THE_PROMPT,
        "frequency_penalty": _COUNTS_THE_PROMPT,
        "top_k.large": _LARGE_TOP_K,
        "logprobs": _CPP_LOGPROBS,
        "prompt_logprobs": _CPP_LOGPROBS,
    }
    if "min_p" not in params:
        found["min_p"] = _NO_MIN_P
    if "embedding_bias" not in params:
        found |= dict.fromkeys(("logit_bias", "allowed_token_ids"), _NO_BIAS)
    return found


def _torch(params: frozenset[str], sampler: TorchSampler) -> Fields:
    """Return the fields that the installed TorchSampler does not honour."""
    found = {"seed": _SEED_OF_THE_BATCH}
    if not sampler.draws:
        found |= {
            "temperature": _NO_DRAWS,
            "logit_bias": _TORCH_IGNORES,
            "allowed_token_ids": _TORCH_IGNORES,
        }
    if not sampler.min_p or "min_p" not in params:
        found["min_p"] = _TORCH_IGNORES_MIN_P
    if not sampler.penalties:
        found["repetition_penalty"] = _TORCH_IGNORES
    if not sampler.penalties or "prompt_ignore_length" not in params:
        reason = _COUNTS_THE_PROMPT if sampler.penalties else _TORCH_IGNORES
        found |= dict.fromkeys(("presence_penalty", "frequency_penalty"), reason)
    if not sampler.bans:
        found |= dict.fromkeys(("bad_words", "min_tokens"), _TORCH_IGNORES)
    if "logprobs_mode" not in params:
        found |= dict.fromkeys(("logprobs", "prompt_logprobs"), _NO_LOGPROBS_MODE)
    return found
