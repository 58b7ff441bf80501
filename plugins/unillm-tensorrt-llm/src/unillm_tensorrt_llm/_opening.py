# SPDX-License-Identifier: Apache-2.0

"""Loading: from a configuration to a running engine.

TensorRT-LLM lowers lengths in silence, so this module and the core check all lengths
and pass them explicitly.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from unillm.backend import (
    ArtifactStore,
    Capabilities,
    EngineLimits,
    RunScheduler,
    check_weights,
    quantization_of,
)
from unillm.errors import ConfigError, ModelLoadError

from . import _building, _device, _errors
from ._capabilities import BY_BIAS, NO_BIAS, NO_MIN_P
from ._engine_dir import EngineDirectory, is_engine_directory
from ._entry_paths import EntryPath, Installed, choose
from ._llm import LlmEngine
from ._names import vllm_name
from ._runner import RunnerEngine
from ._speculation import decoding_config

if TYPE_CHECKING:
    from unillm.backend import BuildSpec, Engine, EngineConfig

_LIMITS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
"""Limits that the core checks requests against; no option may override them."""

log = logging.getLogger("unillm.tensorrt_llm")


def needed_build(config: EngineConfig) -> BuildSpec | None:
    """Return the spec of the engine to build for *config*; `None` if none is needed."""
    if is_engine_directory(config.path):
        return None
    wanted = config.backend_options.get("door")
    if wanted == EntryPath.PYTORCH.value:
        return None
    if wanted is None and _building.engine_version() is not None:
        installed = Installed.look()
        if choose(installed, config.path, None).entry_path is EntryPath.PYTORCH:
            return None
    return _building.build_spec(config)


def open_engine(config: EngineConfig) -> Engine:
    """Load a model into TensorRT-LLM; a `RunScheduler` drives runners.

    Raises what `load` raises.
    """
    engine = load(config)
    if isinstance(engine, LlmEngine):
        return engine
    return RunScheduler(engine, clock=perf_counter)


def load(config: EngineConfig) -> LlmEngine | RunnerEngine:
    """Load a model through its entry path.

    Raises:
        BackendUnavailableError: The installed version lacks the entry path.
        ConfigError: An option is refused.
        ModelLoadError: The model or the engine cannot be loaded.
        EngineOutOfMemoryError: It does not fit.
    """
    options = dict(config.backend_options)
    wanted = options.pop("door", None)
    installed = Installed.look()
    choice = choose(installed, config.path, wanted)
    log.info(
        "TensorRT-LLM %s, entry path %r: %s",
        installed.version,
        choice.entry_path.value,
        choice.reason,
    )
    if choice.entry_path is EntryPath.PYTORCH:
        return _open_pytorch(config, installed, options)
    release: Callable[[], None] = _nothing
    path = config.path
    spec = needed_build(config)
    if spec is not None:
        artifact = ArtifactStore().obtain(spec, _building.build)
        path, release = artifact.path, artifact.close
    try:
        engine = EngineDirectory.read(path)
        _check(engine, installed, config)
        if choice.entry_path is EntryPath.ENGINE:
            return _open_engine_llm(config, installed, engine, options, release)
        return _open_runner(config, installed, engine, options, release)
    except BaseException:
        release()
        raise


def _nothing() -> None:
    """Release nothing."""


def _merged(
    entry_path: EntryPath, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the user's `backend_options` into the arguments of the plugin.

    Raises:
        ConfigError: An option would override an argument of the plugin.
    """
    for name in options:
        ours = vllm_name(entry_path, name)
        if name in arguments or ours in _LIMITS:
            instead = f"pass {ours}= to the generator" if ours else "leave it out"
            raise ConfigError(
                f"backend_options has {name!r}, which unillm passes to TensorRT-LLM "
                f"itself: {instead}."
            )
    return {**arguments, **options}


# -------------------------------------------------------------------------- PyTorch


def _open_pytorch(
    config: EngineConfig, installed: Installed, options: dict[str, Any]
) -> LlmEngine:
    checkpoint = _building.checkpoint_config(config.path)
    check_weights(config.path)
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
    arguments: dict[str, Any] = {
        "dtype": config.dtype,
        "trust_remote_code": config.trust_remote_code,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "max_seq_len": context,
        "max_batch_size": limits.max_num_seqs,
        "max_num_tokens": batched,
        "enable_chunked_prefill": chunked,
        **_kv_cache(config, installed, dtype=True),
    }
    if config.enforce_eager:
        arguments["cuda_graph_config"] = None
    if config.speculative_config is not None:
        arguments["speculative_config"] = decoding_config(
            config.speculative_config, installed
        )
        if config.speculative_config["method"] == "draft_model":
            arguments["disable_overlap_scheduler"] = True
    arguments = _merged(EntryPath.PYTORCH, arguments, options)
    llm = _make_llm(installed.pytorch_llm, config.path, arguments, facts="")
    return _llm_engine(llm, installed, limits, _nothing)


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


# -------------------------------------------------------------------------- engines


def _check(engine: EngineDirectory, installed: Installed, config: EngineConfig) -> None:
    """Compare the configuration with the engine before loading.

    Raises:
        ModelLoadError: Another version built the engine.
        ConfigError: An option exceeds or contradicts the engine.
    """
    if engine.version != installed.version:
        raise ModelLoadError(
            f"The engine {engine.path} was built by TensorRT-LLM {engine.version}, and "
            f"{installed.version} is installed: an engine fits one version of "
            "TensorRT. Build it again with this version, or install the other one."
        )
    for name, built in (
        ("max_model_len", engine.max_seq_len),
        ("max_num_seqs", engine.max_batch_size),
        ("max_num_batched_tokens", engine.max_num_tokens),
    ):
        asked = getattr(config, name)
        if asked is not None and asked > built:
            raise ConfigError(
                f"{name}={asked} is more than the {built} that the engine "
                f"{engine.path} was built for. Lower it, or build a larger engine; "
                "`unillm plan` shows its memory."
            )
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        asked, built = getattr(config, name), getattr(engine, name)
        if asked not in (1, built):
            raise ConfigError(
                f"{name}={asked} does not fit the engine {engine.path}, which was "
                f"built for {built}. Leave it out."
            )
    quantization = _building.quant_algo(config.quantization)
    for name, wanted, has in (
        ("dtype", None if config.dtype == "auto" else config.dtype, engine.dtype),
        ("quantization", quantization, engine.quantization),
    ):
        if wanted not in (None, has):
            raise ConfigError(
                f"{name}={getattr(config, name)!r} does not fit the engine "
                f"{engine.path}, which was built with {has or 'none'}. Leave it out, "
                "or pass the checkpoint and have one built."
            )
    if config.kv_cache_dtype != "auto":
        raise ConfigError(
            f"kv_cache_dtype={config.kv_cache_dtype!r} is fixed when an engine is "
            "built, by its quantisation. Leave it out, or load the checkpoint with "
            'door="pytorch".'
        )


def _limits(
    engine: EngineDirectory, config: EngineConfig, longest: int
) -> EngineLimits:
    context = config.max_model_len or engine.max_seq_len
    return EngineLimits(
        max_model_len=context,
        max_prompt_len=longest if longest < context - 1 else None,
        max_num_seqs=config.max_num_seqs or engine.max_batch_size,
        vocab_size=engine.vocab_size,
    )


def _facts(engine: EngineDirectory) -> str:
    return (
        f"The engine {engine.path} was built by TensorRT-LLM {engine.version}; the GPU "
        f"here is {_device.architecture() or 'unknown'}."
    )


def _open_engine_llm(
    config: EngineConfig,
    installed: Installed,
    engine: EngineDirectory,
    options: dict[str, Any],
    release: Callable[[], None],
) -> LlmEngine:
    arguments = _kv_cache(config, installed, dtype=False)
    if config.speculative_config is not None:
        arguments["speculative_config"] = decoding_config(
            config.speculative_config, installed
        )
    arguments = _merged(EntryPath.ENGINE, arguments, options)
    llm = _make_llm(installed.engine_llm, engine.path, arguments, facts=_facts(engine))
    limits = _limits(engine, config, engine.longest_prompt)
    return _llm_engine(llm, installed, limits, release)


def _open_runner(
    config: EngineConfig,
    installed: Installed,
    engine: EngineDirectory,
    options: dict[str, Any],
    release: Callable[[], None],
) -> RunnerEngine:
    if engine.world_size > 1:
        raise ConfigError(
            f"The engine {engine.path} is spread over {engine.world_size} GPUs, and "
            "the runners then need every process of mpirun to make every call. Use "
            'door="engine", which starts its processes itself.'
        )
    if config.speculative_config is not None:
        raise ConfigError(
            "speculative_config is fixed when an engine is built for the runners; use "
            'door="engine" or door="pytorch".'
        )
    in_cpp = engine.inflight and installed.model_runner_cpp is not None
    runner_class = installed.model_runner_cpp if in_cpp else installed.model_runner
    longest = engine.longest_prompt if in_cpp else engine.max_input_len
    arguments: dict[str, Any] = {}
    if in_cpp:
        arguments = {
            "max_batch_size": config.max_num_seqs or engine.max_batch_size,
            # The engine's own max_input_len would bound prompts further than the C++
            # runtime needs. max_seq_len bounds prompt and output together.
            "max_input_len": longest,
        }
        cache = {
            "kv_cache_free_gpu_memory_fraction": config.gpu_memory_utilization,
            "kv_cache_enable_block_reuse": config.enable_prefix_caching,
        }
        arguments |= {k: v for k, v in cache.items() if v is not None}
    else:
        _refuse_cache_options(config)
    arguments = _merged(EntryPath.RUNNER, arguments, options)
    _refuse_unknown(runner_class, arguments)
    try:
        runner = runner_class.from_dir(str(engine.path), **arguments)
    except Exception as error:
        raise _errors.translated(
            error, "while it loaded an engine", facts=_facts(engine)
        ) from error
    return RunnerEngine(
        runner,
        limits=_limits(engine, config, longest),
        packed=engine.packed,
        by_row=not in_cpp,
        release=release,
    )


def _refuse_cache_options(config: EngineConfig) -> None:
    for name in ("gpu_memory_utilization", "enable_prefix_caching"):
        if getattr(config, name) is not None:
            raise ConfigError(
                f"{name}={getattr(config, name)!r}: ModelRunner, which runs engines "
                "without in-flight batching, creates its cache anew for each batch and "
                "takes no such option. Leave it out."
            )


def _refuse_unknown(runner_class: Any, arguments: dict[str, Any]) -> None:
    known = inspect.signature(runner_class.from_dir).parameters
    if unknown := sorted(arguments.keys() - known.keys()):
        raise ConfigError(
            f"{runner_class.__name__} has no option {', '.join(unknown)}. It takes "
            f"{', '.join(name for name in known if name != 'engine_dir')}."
        )


# ------------------------------------------------------------------------------ both


def _kv_cache(
    config: EngineConfig, installed: Installed, *, dtype: bool
) -> dict[str, Any]:
    """Return the ``kv_cache_config`` argument; empty if no option sets it.

    Here `gpu_memory_utilization` is a share of the memory that the weights leave free;
    in vLLM it is a share of all memory.
    """
    asked: dict[str, Any] = {
        "free_gpu_memory_fraction": config.gpu_memory_utilization,
        "enable_block_reuse": config.enable_prefix_caching,
    }
    if dtype and config.kv_cache_dtype != "auto":
        asked["dtype"] = config.kv_cache_dtype
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        return {}
    return {"kv_cache_config": installed.llm_module.KvCacheConfig(**given)}


def _make_llm(
    llm_class: Any, path: Path, arguments: dict[str, Any], *, facts: str
) -> Any:
    try:
        return llm_class(str(path), skip_tokenizer_init=True, **arguments)
    except Exception as error:
        raise _errors.translated(error, "while it started", facts=facts) from error


def _llm_engine(
    llm: Any, installed: Installed, limits: EngineLimits, release: Callable[[], None]
) -> LlmEngine:
    names = inspect.signature(installed.sampling_params).parameters
    missing = {
        "min_p": ("min_p", NO_MIN_P),
        **dict.fromkeys(BY_BIAS, ("embedding_bias", NO_BIAS)),
    }
    return LlmEngine(
        llm,
        installed.sampling_params,
        limits=limits,
        capabilities=Capabilities(
            fields={
                field: capability
                for field, (name, capability) in missing.items()
                if name not in names
            }
        ),
        release=release,
    )
