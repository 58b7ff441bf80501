# SPDX-License-Identifier: Apache-2.0

"""Engines from checkpoints: the spec of a build, and the build.

The key of TensorRT-LLM's own build cache lacks the GPU, the driver and the contents of
the weights; the key of the artifact store has the GPU and the contents.

References:
    ``BuildConfig`` of ``tensorrt_llm/builder.py`` and the quantisation page of the
    documentation, for the versions that build engines: 0.11 to 1.3.0rc20.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from unillm.backend import (
    ArtifactFolder,
    BuildSpec,
    Limits,
    check_code,
    check_tensors,
    check_weights,
    model_positions,
    read_config,
    without_adapter,
)
from unillm.errors import BackendUnavailableError, ConfigError

from . import _device, _errors
from ._entry_paths import LAST_WITH_ENGINES, Installed

if TYPE_CHECKING:
    from unillm.backend import EngineConfig, Progress

DEFAULT_MAX_BATCH_SIZE = 256
"""vLLM's default of `max_num_seqs`. TensorRT-LLM's own, 2048, takes more memory."""

DEFAULT_MAX_NUM_TOKENS = 8192
"""TensorRT-LLM's default since 0.11; raised for a longer context."""

QUANT_ALGOS: Mapping[str, str] = MappingProxyType(
    {
        "fp8": "FP8",
        "awq": "W4A16_AWQ",
        "gptq": "W4A16_GPTQ",
        "int8": "W8A16",
        "int4": "W4A16",
        "smoothquant": "W8A8_SQ_PER_CHANNEL",
    }
)
"""`EngineConfig.quantization` to a member of ``QuantAlgo``."""

_BOUND_TO = ("tensorrt-llm", "tensorrt")
"""Distributions whose versions an engine is bound to."""

_READ = ("*.safetensors", "config.json", "model.safetensors.index.json", "*.model")


def checkpoint_config(path: Path) -> Mapping[str, Any]:
    """Return ``config.json`` of a Hugging Face checkpoint, its text part if it has one.

    Raises:
        ModelError: It is missing or broken.
    """
    config = read_config(path)
    text: Mapping[str, Any] = config.get("text_config") or config
    return text


def context_of(config: EngineConfig) -> int:
    """Return the context to use: `max_model_len`, or the model's.

    TensorRT-LLM lowers a longer one with a warning alone.

    Raises:
        ConfigError: `max_model_len` exceeds the positions of the model.
        ModelLoadError: The checkpoint does not declare its positions.
    """
    positions = model_positions(config.path, extended=True)
    asked = config.max_model_len or model_positions(config.path)
    if asked > positions:
        raise ConfigError(
            f"max_model_len={asked} is more than the {positions} positions that the "
            f"model was made for. Pass max_model_len={positions} or less."
        )
    return asked


def quant_algo(name: str | None) -> str | None:
    """Return TensorRT-LLM's name of a quantisation.

    Raises:
        ConfigError: It is not one of `QUANT_ALGOS`.
    """
    if name is None:
        return None
    try:
        return QUANT_ALGOS[name]
    except KeyError:
        raise ConfigError(
            f"quantization must be one of {', '.join(QUANT_ALGOS)} for engines of "
            f"TensorRT-LLM, got {name!r}."
        ) from None


def build_spec(config: EngineConfig) -> BuildSpec:
    """Return the spec of an engine for *config*; works without TensorRT-LLM.

    Raises:
        UnsafeModelError: Building it would run code from the checkpoint.
        ModelLoadError: The checkpoint is broken.
        ConfigError: A limit exceeds the model's.

    References:
        A build calls ``from_hugging_face`` of TensorRT-LLM's model classes, which runs
        code of the checkpoint by default, and not every version of ``LLM`` forbids it.
    """
    if not config.trust_remote_code:
        check_code(read_config(config.path), name=config.model)
    check_weights(config.path)
    checkpoint = checkpoint_config(config.path)
    context = context_of(config)

    return BuildSpec(
        model=config.model,
        model_path=config.path,
        model_files=ArtifactFolder().digest_model(config.path, _READ),
        backend="tensorrt-llm",
        backend_version=metadata.version("unillm-sdk-tensorrt-llm"),
        engine_version=engine_version(),
        device=_device.architecture(),
        dtype=_dtype(config.dtype, checkpoint),
        quantization=quant_algo(config.quantization),
        tensor_parallel_size=config.tensor_parallel_size,
        pipeline_parallel_size=config.pipeline_parallel_size,
        max_batch_size=config.max_num_seqs or DEFAULT_MAX_BATCH_SIZE,
        max_input_len=context - 1,
        max_seq_len=context,
        # An engine computes a prompt in one step, which has to hold the longest one.
        max_num_tokens=max(
            config.max_num_batched_tokens or DEFAULT_MAX_NUM_TOKENS, context
        ),
    )


def _dtype(dtype: str, checkpoint: Mapping[str, Any]) -> str:
    if dtype != "auto":
        return dtype
    return str(checkpoint.get("dtype") or checkpoint.get("torch_dtype") or "float16")


def engine_version() -> str | None:
    """Return the versions that an engine is bound to; `None` if not installed."""
    versions = [f"{name} {found}" for name in _BOUND_TO if (found := _version(name))]
    if versions:
        return ", ".join(versions)
    try:
        return f"tensorrt-llm {Installed.look().version}"
    except BackendUnavailableError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def build(spec: BuildSpec, target: Path, progress: Progress) -> None:
    """Build an engine of a checkpoint into *target*, with the ``LLM`` class.

    Raises:
        BackendUnavailableError: The installed version builds no engines.
        ModelLoadError: A tensor is missing, has another shape or has no place.
        EngineOutOfMemoryError: Building ran out of memory.
        ConfigError: An option was refused.
    """
    installed = Installed.look()
    if installed.engine_llm is None:
        raise BackendUnavailableError(
            f"TensorRT-LLM {installed.version} builds no engines; the last version "
            f"that does is {LAST_WITH_ENGINES}.",
            name="tensorrt-llm",
        )
    check_tensors(spec.model_path)
    free = _device.free_bytes()
    progress("loading the checkpoint and building the engine")
    try:
        llm = installed.engine_llm(
            str(without_adapter(spec.model_path)),
            skip_tokenizer_init=True,
            dtype=spec.dtype,
            tensor_parallel_size=spec.tensor_parallel_size,
            pipeline_parallel_size=spec.pipeline_parallel_size,
            build_config=_member("BuildConfig", installed)(
                max_batch_size=spec.max_batch_size,
                max_input_len=spec.max_input_len,
                max_seq_len=spec.max_seq_len,
                max_num_tokens=spec.max_num_tokens,
            ),
            **_quantised(spec.quantization, installed),
        )
    except Exception as error:
        doing = "while it built an engine"
        raise (
            _errors.too_much(error, doing, _wanted(spec), free=free)
            or _errors.translated(error, doing, facts=_size(spec))
        ) from error
    try:
        progress("saving the engine")
        llm.save(str(target))
    finally:
        _errors.shut_down(llm)


def _wanted(spec: BuildSpec) -> _errors.Wanted:
    def limit(name: str) -> int:
        value = spec.limits[name]
        assert value is not None, "build_spec sets every limit"
        return value

    return _errors.Wanted(
        path=spec.model_path,
        dtype=spec.dtype,
        num_devices=spec.tensor_parallel_size * spec.pipeline_parallel_size,
        limits=Limits(
            max_num_seqs=limit("max_batch_size"),
            max_model_len=limit("max_seq_len"),
            max_num_batched_tokens=limit("max_num_tokens"),
        ),
    )


def _size(spec: BuildSpec) -> str:
    return (
        f"The engine was to hold max_num_seqs={spec.max_batch_size} requests of "
        f"max_model_len={spec.max_seq_len} tokens, with max_num_batched_tokens="
        f"{spec.max_num_tokens} in a step."
    )


def _quantised(algo: str | None, installed: Installed) -> dict[str, Any]:
    if algo is None:
        return {}
    algos = _member("QuantAlgo", installed)
    quant_config = _member("QuantConfig", installed)
    return {"quant_config": quant_config(quant_algo=getattr(algos, algo))}


def _member(name: str, installed: Installed) -> Any:
    """Return a class of the LLM API, from the module of this version."""
    for module in (installed.llm_module, importlib.import_module("tensorrt_llm")):
        if hasattr(module, name):
            return getattr(module, name)
    raise BackendUnavailableError(
        f"TensorRT-LLM {installed.version} has no {name}, which building an engine "
        "needs.",
        name="tensorrt-llm",
    )
