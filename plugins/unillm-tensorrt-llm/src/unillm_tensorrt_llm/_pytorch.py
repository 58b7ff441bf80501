# SPDX-License-Identifier: Apache-2.0

"""Loading a checkpoint into ``tensorrt_llm.LLM`` on PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unillm.backend import (
    EngineLimits,
    check_tensors,
    check_weights,
    quantization_of,
)
from unillm.errors import BackendUnavailableError, ConfigError

from . import _building, _capabilities
from ._arguments import (
    WHILE_STARTING,
    fields_given,
    kv_cache,
    make_llm,
    merged,
)
from ._capabilities import PytorchOptions
from ._entry_paths import EntryPath, Installed, module
from ._errors import translating
from ._llm import LlmEngine
from ._sampler import choose_sampler, joins_chunks_with_reuse
from ._speculation import speculation

if TYPE_CHECKING:
    from unillm.backend import EngineConfig

GUIDED = "guided_decoding_backend"
LLGUIDANCE = "llguidance"

_LOADS_OTHERWISE = frozenset({"load_format", "model_kwargs"})
"""Options of the LLM class that load other tensors than ``config.json`` declares."""

_LORA_CONFIG = ("tensorrt_llm.lora_manager", "tensorrt_llm._torch.peft.lora.config")
_LORA_REQUEST = ("tensorrt_llm.executor.request", "tensorrt_llm.executor")

log = logging.getLogger("unillm.tensorrt_llm")


def open_pytorch(
    config: EngineConfig, installed: Installed, options: dict[str, Any]
) -> LlmEngine:
    """Load a Hugging Face checkpoint.

    Raises:
        ConfigError: An option is refused.
        ModelLoadError: The model cannot be loaded.
        BackendUnavailableError: This version has no class for an option.
        EngineOutOfMemoryError: It does not fit.
    """
    checkpoint = _building.checkpoint_config(config.path)
    check_weights(config.path)
    if _LOADS_OTHERWISE.isdisjoint(options):
        check_tensors(config.path)
    context = _building.context_of(config)
    _check_prequantised(config, checkpoint)
    batched = config.max_num_batched_tokens or _building.DEFAULT_MAX_NUM_TOKENS
    # Without it, TensorRT-LLM refuses a prompt over max_num_tokens.
    chunked = bool(options.pop("enable_chunked_prefill", context > batched))
    limits = EngineLimits(
        max_model_len=context,
        max_prompt_len=None if chunked or batched >= context - 1 else batched,
        max_num_seqs=config.max_num_seqs or _building.DEFAULT_MAX_BATCH_SIZE,
        vocab_size=int(checkpoint["vocab_size"]),
    )
    reuse = _block_reuse(config, options, chunked=chunked, batched=batched)
    chosen = choose_sampler(installed, options)
    guided = _guided(config, installed, options)
    drafts = speculation(config.speculative_config, installed, EntryPath.PYTORCH)
    lora = Lora.look()
    arguments: dict[str, Any] = {
        "dtype": config.dtype,
        "trust_remote_code": config.trust_remote_code,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "max_seq_len": context,
        "max_batch_size": limits.max_num_seqs,
        "max_num_tokens": batched,
        "enable_chunked_prefill": chunked,
        **kv_cache(config, installed, options, block_reuse=reuse, dtype=True),
        **chosen.arguments,
        **guided,
        **drafts.arguments,
        **_adapters(config, lora),
    }
    if config.enforce_eager:
        arguments["cuda_graph_config"] = None
    arguments = merged(EntryPath.PYTORCH, arguments, options)
    llm = make_llm(installed.pytorch_llm, config.path, arguments, facts="")
    found = fields_given(arguments.get("kv_cache_config"))
    return LlmEngine(
        llm,
        installed.sampling_params,
        limits=limits,
        capabilities=_capabilities.on_pytorch(
            installed,
            PytorchOptions(
                sampler=chosen.sampler,
                speculates=drafts.active,
                draws_speculatively=drafts.draws,
                block_reuse=found.get("enable_block_reuse", True),
                chunked=chunked,
                guided=bool(guided),
                lora=lora is not None,
            ),
        ),
        release=_nothing,
        guided_class=getattr(installed.llm_module, "GuidedDecodingParams", None),
        lora_class=lora and lora.request_class,
    )


def _nothing() -> None:
    """Release nothing."""


def _check_prequantised(config: EngineConfig, checkpoint: Any) -> None:
    """Refuse to quantise while loading, which this entry path cannot."""
    if config.quantization is None:
        return
    declared = (quantization_of(checkpoint) or {}).get("quant_method")
    made_by_modelopt = (config.path / "hf_quant_config.json").is_file()
    if declared != config.quantization and not made_by_modelopt:
        raise ConfigError(
            f"quantization={config.quantization!r}: on PyTorch, TensorRT-LLM loads "
            "checkpoints that are quantised already, and this one declares "
            f"{declared or 'none'}. Quantise it with NVIDIA ModelOpt first, "
            'or build an engine with door="engine" (TensorRT-LLM up to 1.3.0rc20).'
        )


def _block_reuse(
    config: EngineConfig, options: Mapping[str, Any], *, chunked: bool, batched: int
) -> bool | None:
    """Return whether to share prefixes; `None` for TensorRT-LLM's default, yes.

    Raises:
        ConfigError: The user asks for it where chunks corrupt it.
    """
    theirs = fields_given(options.get("kv_cache_config")).get("enable_block_reuse")
    asked = config.enable_prefix_caching
    if not chunked or joins_chunks_with_reuse():
        return asked
    if asked or theirs:
        raise ConfigError(
            "enable_prefix_caching=True: in this version of TensorRT-LLM a shared "
            "prefix gives wrong tokens if a prompt is computed in chunks, and "
            f"max_num_batched_tokens={batched} needs chunks. Raise it to "
            "max_model_len, or pass enable_prefix_caching=False."
        )
    if theirs is not None:
        return None  # it is off already
    log.info(
        "Prefixes are not shared: max_num_batched_tokens=%d makes chunks of long "
        "prompts, and this version of TensorRT-LLM mixes up shared blocks then",
        batched,
    )
    return False


def _guided(
    config: EngineConfig, installed: Installed, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments for structured outputs, if the user asks for them.

    They load a tokenizer in TensorRT-LLM too, so they are not the default.

    Raises:
        ConfigError: The library's dialects are not those of unillm.
        BackendUnavailableError: This version lacks it.
    """
    wanted = options.pop(GUIDED, None)
    if wanted is None:
        return {}
    if wanted != LLGUIDANCE:
        raise ConfigError(
            f"{GUIDED} must be {LLGUIDANCE!r}, got {wanted!r}: regular expressions and "
            "grammars of other libraries have other dialects than unillm's."
        )
    if not has_llguidance(installed):
        raise BackendUnavailableError(
            f"TensorRT-LLM {installed.version} has no {LLGUIDANCE}; 1.1 and later have "
            f"it. Leave {GUIDED} out.",
            name="tensorrt-llm",
        )
    return {GUIDED: LLGUIDANCE, "tokenizer": str(config.tokenizer or config.path)}


def _adapters(config: EngineConfig, lora: Lora | None) -> dict[str, Any]:
    """Return the arguments for adapters, if the user asks for them.

    Raises:
        BackendUnavailableError: This version has their classes elsewhere.
    """
    if not config.enable_lora:
        return {}
    if lora is None:
        places = ", ".join(_LORA_CONFIG + _LORA_REQUEST)
        raise BackendUnavailableError(
            "enable_lora=True: LoraConfig or LoRARequest of this version of "
            f"TensorRT-LLM is in none of {places}.",
            name="tensorrt-llm",
        )
    return lora.arguments(config)


def has_llguidance(installed: Installed) -> bool:
    """Whether the LLM class takes llguidance as its library of grammars."""
    field = installed.arguments_of(EntryPath.PYTORCH).get(GUIDED)
    return LLGUIDANCE in str(getattr(field, "annotation", ""))


class Lora:
    """The classes of adapters in the installed version."""

    def __init__(self, config_class: Any, request_class: Any) -> None:
        self._config_class = config_class
        self.request_class = request_class

    @classmethod
    def look(cls) -> Lora | None:
        """Import them; `None` if this version has them elsewhere."""
        config_class = _first(_LORA_CONFIG, "LoraConfig")
        request_class = _first(_LORA_REQUEST, "LoRARequest")
        if config_class is None or request_class is None:
            return None
        return cls(config_class, request_class)

    def arguments(self, config: EngineConfig) -> dict[str, Any]:
        """Return the argument of the LLM class."""
        asked = {
            "max_lora_rank": config.max_lora_rank,
            "max_loras": config.max_loras,
            "max_cpu_loras": config.max_loras,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        with translating(WHILE_STARTING):
            return {"lora_config": self._config_class(**given)}


def _first(places: tuple[str, ...], name: str) -> Any:
    found = (getattr(module(place), name, None) for place in places)
    return next((each for each in found if each is not None), None)
