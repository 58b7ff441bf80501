# SPDX-License-Identifier: Apache-2.0

"""Loading: from a configuration to an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from unillm.backend import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    GIB,
    MEMORY_SHARE,
    Artifact,
    ArtifactFolder,
    ArtifactStore,
    BuildSpec,
    EngineLimits,
    MemoryNeeds,
    RunScheduler,
    check_model_len,
    free_bytes,
    keep_freed,
    load_config,
    phase,
    plan_limits,
    positions_of,
)
from unillm.backend import memory_needs as needs_of_files
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    EngineOutOfMemoryError,
    ModelLoadError,
)

from ._engine import CTranslate2Engine
from ._families import check_supported

if TYPE_CHECKING:
    from ctranslate2 import Generator

    from unillm.backend import EngineConfig

COMPUTES_IN: Mapping[str, str] = MappingProxyType(
    {
        "int8": "float32",
        "int8_float32": "float32",
        "int8_float16": "float16",
        "int8_bfloat16": "bfloat16",
        "int16": "float32",
        "float16": "float16",
        "bfloat16": "bfloat16",
        "float32": "float32",
    }
)
"""CTranslate2's names of how weights are stored, and the dtype of the computation."""

_BYTES = MappingProxyType({"int8": 1, "int16": 2, "float16": 2, "bfloat16": 2})

DEFAULT_ROWS = MappingProxyType({"cpu": 64, "cuda": 128})
"""Rows of a run, if memory allows. More rows cost little until matrix products dominate
the time of a step; beyond that, requests only get slower."""

DEVICES = ("auto", "cpu", "cuda")


@attrs.frozen(kw_only=True)
class Plan:
    """The device and the weights of a configuration."""

    device: str
    """"cpu" or "cuda"."""
    stored_as: str
    """A key of `COMPUTES_IN`."""


def build_spec(config: EngineConfig) -> BuildSpec:
    """Return the spec of the converted model for a configuration.

    Raises:
        ConfigError: The device does not compute in this dtype.
        ModelError: The model cannot be read, or is not supported.
    """
    check_supported(config.path, max_model_len=config.max_model_len)
    plan = make_plan(config)
    dtype = COMPUTES_IN[plan.stored_as]
    return BuildSpec(
        model=config.model,
        model_path=config.path,
        model_files=ArtifactFolder().digest_model(
            config.path, ("config.json", "*.safetensors", "*.safetensors.index.json")
        ),
        backend="ctranslate2",
        backend_version=version("unillm-sdk-ctranslate2"),
        engine_version=_engine_version(),
        device="any",
        dtype=dtype,
        quantization=None if plan.stored_as == dtype else plan.stored_as,
    )


def open_engine(
    config: EngineConfig, *, build: Callable[[BuildSpec, Path, Any], None]
) -> RunScheduler:
    """Convert the model unless it is stored, load it, and schedule it."""
    engine = load_engine(config, build=build)
    return RunScheduler(engine, clock=time.perf_counter)


def load_engine(
    config: EngineConfig, *, build: Callable[[BuildSpec, Path, Any], None]
) -> CTranslate2Engine:
    """Convert the model unless it is stored, and load it.

    Raises:
        ConfigError: An option is refused.
        ModelError: The model cannot be loaded, or is not supported.
        EngineBuildError: It cannot be converted.
        BackendUnavailableError: The device is missing.
        EngineOutOfMemoryError: It does not fit.
    """
    spec = build_spec(config)
    plan = make_plan(config)
    model = load_config(config.path)
    positions = positions_of(model)
    check_model_len(config.max_model_len, positions=positions)
    with ArtifactStore().obtain(spec, build) as artifact:
        generator = _load(artifact, plan, config)
    import torch

    needs = memory_needs(config)
    free = free_bytes(torch.device(plan.device))
    limits = plan_limits(
        needs,
        positions=positions,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=DEFAULT_MAX_NUM_BATCHED_TOKENS,
        default_slots=DEFAULT_ROWS[plan.device],
        memory_bytes=needs.weight_bytes + int(free * MEMORY_SHARE[plan.device]),
    )
    return CTranslate2Engine(
        generator,
        EngineLimits(
            max_model_len=limits.max_model_len,
            max_num_seqs=limits.max_num_seqs,
            vocab_size=model.get_text_config().vocab_size,
        ),
    )


def memory_needs(config: EngineConfig) -> MemoryNeeds:
    """Return the memory that the converted model needs."""
    stored_as = make_plan(config).stored_as
    needs = needs_of_files(config.path, dtype=COMPUTES_IN[stored_as])
    kind = stored_as.partition("_")[0]
    if kind not in ("int8", "int16"):
        return needs
    floats = 4 if COMPUTES_IN[stored_as] == "float32" else 2
    return attrs.evolve(needs, weight_bytes=needs.weight_bytes * _BYTES[kind] // floats)


def make_plan(config: EngineConfig) -> Plan:
    """Choose the device and the form of the weights.

    Raises:
        ConfigError: The device or quantization is unknown, or do not fit together.
    """
    device = _device(config.backend_options.get("device", "auto"))
    can = _supported(device)
    name = "dtype" if config.quantization is None else "quantization"
    asked = config.quantization or config.dtype
    if asked == "auto":
        stored = str(load_config(config.path).dtype).removeprefix("torch.")
        return Plan(device=device, stored_as=stored if stored in can else "float32")
    if asked not in COMPUTES_IN:
        raise ConfigError(
            f"{name} must be one of {', '.join(COMPUTES_IN)} on the backend "
            f"'ctranslate2', got {asked!r}."
        )
    dtype = COMPUTES_IN[asked]
    if config.quantization and config.dtype not in ("auto", dtype):
        raise ConfigError(
            f"quantization={asked!r} computes in {dtype}, and dtype={config.dtype!r} "
            "was asked for. Leave out dtype, or choose another quantization."
        )
    if asked not in can:
        raise ConfigError(
            f"CTranslate2 does not compute with {name}={asked!r} on this {device} "
            f"device. It supports {', '.join(sorted(can))}."
        )
    return Plan(device=device, stored_as=asked)


def _engine_version() -> str | None:
    try:
        return version("ctranslate2")
    except PackageNotFoundError:
        return None


def _device(asked: str) -> str:
    if asked not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, got {asked!r}.")
    if asked == "cpu":
        return "cpu"
    if _engine_version() is None:
        return "cpu"
    import ctranslate2

    has_cuda = ctranslate2.get_cuda_device_count() > 0
    if asked == "cuda" and not has_cuda:
        raise BackendUnavailableError(
            "device='cuda' was asked for, but CTranslate2 sees no CUDA device. Check "
            "nvidia-smi, or pass device='cpu'.",
            name="ctranslate2",
        )
    return "cuda" if has_cuda else "cpu"


def _supported(device: str) -> set[str]:
    """Return the types that CTranslate2 computes with on a device.

    Without CTranslate2 all of them, so that a plan for another machine is possible.
    """
    if _engine_version() is None:
        return set(COMPUTES_IN)
    import ctranslate2

    can: set[str] = ctranslate2.get_supported_compute_types(device)
    return can


def _load(artifact: Artifact, plan: Plan, config: EngineConfig) -> Generator:
    import ctranslate2

    threads = config.backend_options.get("intra_threads", 0)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise ConfigError(f"intra_threads must be an integer ≥ 0, got {threads!r}.")
    keep_freed()
    size = artifact.manifest.total_bytes
    try:
        with phase("loading the converted model", total_bytes=size):
            return ctranslate2.Generator(
                str(artifact.path),
                device=plan.device,
                compute_type=plan.stored_as,
                inter_threads=1,  # there is one run at a time
                intra_threads=threads,
            )
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise EngineOutOfMemoryError(
                f"The weights of {config.model!r} do not fit: they take about "
                f"{artifact.manifest.total_bytes / GIB:.2f} GiB as {plan.stored_as} on "
                f"{plan.device}. Choose a quantization of fewer bytes."
            ) from error
        raise ModelLoadError(
            f"CTranslate2 cannot load {config.model!r}: {error}"
        ) from error
