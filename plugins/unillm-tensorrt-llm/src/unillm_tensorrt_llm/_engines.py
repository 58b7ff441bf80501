# SPDX-License-Identifier: Apache-2.0

"""Loading an engine directory, into an LLM or a runner."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unillm.backend import EngineLimits, phase
from unillm.errors import ConfigError, ModelLoadError

from . import _building, _capabilities, _device, _errors
from ._arguments import kv_cache, make_llm, merged
from ._engine_dir import EngineDirectory
from ._entry_paths import EntryPath, Installed
from ._llm import LlmEngine
from ._runner import RunnerEngine, takes_seeds
from ._speculation import speculation

if TYPE_CHECKING:
    from unillm.backend import EngineConfig


def refuse_adapters(config: EngineConfig) -> None:
    """Raise `ConfigError` if adapters are asked for, which are for PyTorch alone."""
    if config.enable_lora:
        raise ConfigError(
            "enable_lora=True: the plugin loads adapters on PyTorch alone, from "
            "TensorRT-LLM 1.0 on; engines have them built in. Leave it out, or load "
            'the checkpoint with door="pytorch".'
        )


def check(engine: EngineDirectory, installed: Installed, config: EngineConfig) -> None:
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


def open_engine_llm(
    config: EngineConfig,
    installed: Installed,
    engine: EngineDirectory,
    options: dict[str, Any],
    release: Callable[[], None],
) -> LlmEngine:
    drafts = speculation(config.speculative_config, installed, EntryPath.ENGINE)
    reuse = config.enable_prefix_caching
    arguments = {
        **_run_time_numbers(engine, config, installed),
        **kv_cache(config, installed, options, block_reuse=reuse, dtype=False),
        **drafts.arguments,
    }
    arguments = merged(EntryPath.ENGINE, arguments, options)
    llm = make_llm(installed.engine_llm, engine.path, arguments, facts=_facts(engine))
    return LlmEngine(
        llm,
        installed.sampling_params,
        limits=_limits(engine, config, engine.longest_prompt),
        capabilities=_capabilities.on_engines(installed, speculates=drafts.active),
        release=release,
    )


def _run_time_numbers(
    engine: EngineDirectory, config: EngineConfig, installed: Installed
) -> dict[str, int]:
    """Return the engine's own numbers, where the LLM class has defaults of its own.

    Its defaults of 2048 requests and 8192 tokens would be the run time's (1.1 on), and
    a prompt over 8192 tokens would die in an engine that was built for it.
    """
    numbers = {
        "max_batch_size": config.max_num_seqs or engine.max_batch_size,
        "max_num_tokens": engine.max_num_tokens,
    }
    known = installed.arguments_of(EntryPath.ENGINE)
    return {name: value for name, value in numbers.items() if name in known}


def open_runner(
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
    arguments = merged(EntryPath.RUNNER, arguments, options)
    _refuse_unknown(runner_class, arguments)
    doing = phase("TensorRT-LLM loads the engine")
    with doing, _errors.translating("while it loaded an engine", facts=_facts(engine)):
        runner = runner_class.from_dir(str(engine.path), **arguments)
    return RunnerEngine(
        runner,
        limits=_limits(engine, config, longest),
        packed=engine.packed,
        by_row=not in_cpp,
        takes_seeds=takes_seeds(runner_class),
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
