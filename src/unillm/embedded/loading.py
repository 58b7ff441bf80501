# SPDX-License-Identifier: Apache-2.0

"""From a model directory to an engine: checked first, then loaded.

Nothing is downloaded, no code of a checkpoint runs unless it is allowed, and weights
that are not safetensors are refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from ..engines.slots import DEFAULT_MAX_NUM_BATCHED_TOKENS
from ..errors import BackendUnavailableError, ConfigError, ModelLoadError
from ..files import is_there
from ..model.adapters import without_adapter
from ..model.checkpoint import (
    check_code,
    check_weights,
    load_config,
    read_config,
    stored_tensors,
)
from ..model.memory import Limits, memory_needs, needs_of
from ..model.positions import positions_of
from ..phases import phase
from ..sampling.logprobs import LOGPROBS_MODES, LogprobsMode
from . import families
from .dynamic_rope import is_dynamic
from .engine import TransformersSlotEngine
from .families import family_of
from .memory import (
    DEFAULT_SLOTS,
    MEMORY_SHARE,
    asked_bytes,
    check_model_len,
    free_bytes,
    is_out_of_memory,
    out_of_memory,
    plan_limits,
)
from .steps import CompileAfter
from .weights.fused import fuse_projections
from .weights.lora import require_peft
from .weights.onednn import pack_linears
from .weights.places import check_places, check_size
from .weights.quantised import method_of

log = logging.getLogger("unillm")

DEVICES = ("auto", "cpu", "cuda")

_DTYPES: Mapping[str, Any] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_engine(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int = DEFAULT_MAX_NUM_BATCHED_TOKENS,
    quantization: str | None = None,
    trust_remote_code: bool = False,
    enforce_eager: bool = False,
    compile_after: CompileAfter = "background",
    enable_lora: bool = False,
    max_loras: int | None = None,
    enable_prefix_caching: bool | None = None,
    logprobs_mode: LogprobsMode = "raw_logprobs",
) -> TransformersSlotEngine:
    """Load a model and make its slots.

    Args:
        path: A model directory.
        dtype: Type of weights and cache: "auto" (the checkpoint's), "float32",
            "bfloat16" or "float16".
        device: "auto" is CUDA where there is one, else the CPU.
        max_model_len: Prompt and new tokens of a slot; `None` for as many as the model
            knows and memory allows.
        max_num_seqs: Slots; `None` for 8 on CPU and 64 on CUDA, if memory allows.
            `memory.plan_limits` chooses both.
        max_num_batched_tokens: Prompt tokens of one prefill.
        quantization: The method that the checkpoint must be quantised with; `None` for
            any or none.
        trust_remote_code: Run the model code that comes with the checkpoint.
        enforce_eager: Call the model as it is: fuse, pack and compile nothing.
        compile_after: When decode steps are compiled on a CPU (`CompileAfter`).
        enable_lora: Take requests with adapters.
        max_loras: Adapters at a time; `None` for as many as slots.
        enable_prefix_caching: Take over prefixes from other rows; `None` where the
            model allows it.
        logprobs_mode: What is returned as log-probabilities, by vLLM's names.

    Raises:
        ConfigError: An option has no such value, or exceeds the model's limits.
        ModelNotFoundError: There is no such directory.
        ModelLoadError: A file is missing, broken or does not match the others.
        UnsafeModelError: Loading would run code from the checkpoint.
        UnsupportedModelError: The slots cannot serve the model; names the reason.
        BackendUnavailableError: The device or peft is not there.
        EngineOutOfMemoryError: Weights or cache do not fit.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}.")
    if compile_after not in (None, "background") and not (
        isinstance(compile_after, int) and compile_after >= 0
    ):
        raise ConfigError(
            "compile_after must be a number of steps ≥ 0, None or 'background', got "
            f"{compile_after!r}."
        )
    if logprobs_mode not in LOGPROBS_MODES:
        raise ConfigError(
            f"logprobs_mode must be one of {', '.join(LOGPROBS_MODES)}, got "
            f"{logprobs_mode!r}."
        )
    if enable_lora:
        require_peft()
    target = _find_device(device)
    path = Path(os.path.expanduser(path))
    declared = read_config(path)
    config = _check_config(path, declared, trust_remote_code=trust_remote_code)
    method = method_of(declared)
    _check_quantization(quantization, method, enable_lora=enable_lora)
    positions = positions_of(config)
    check_model_len(max_model_len, positions=positions)
    check_weights(path)
    needs = memory_needs(path, dtype=dtype)
    too_large = partial(
        out_of_memory,
        f"The weights of {path} do not fit",
        device=target,
        needs=needs,
        limits=Limits(
            max_num_seqs=max_num_seqs or 1,
            max_model_len=max_model_len or positions,
            max_num_batched_tokens=max_num_batched_tokens,
        ),
    )
    if needs.weight_bytes > free_bytes(target):
        raise too_large()
    eager = enforce_eager or enable_lora or method is not None
    try:
        with phase("loading the weights", total_bytes=needs.weight_bytes):
            model = load_model(
                path,
                config,
                dtype,
                # A quantised model cannot be moved after loading.
                device_map={"": target} if method else None,
                trust_remote_code=trust_remote_code,
            )
            if not method:
                model.to(target)
        # The frequencies of a step depend on its lengths, which no graph can.
        eager = eager or is_dynamic(model)
        if not eager:
            with phase("fusing and packing the weights"):
                _rearrange_weights(model)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(asked=asked_bytes(error)) from error
    needs = needs_of(
        config,
        weight_bytes=model.get_memory_footprint(),
        item_bytes=model.dtype.itemsize,
    )
    if remark := families.remark_of(declared):
        log.warning("%s: %s", path, remark)
    one_slot = family_of(config).one_at_a_time
    limits = plan_limits(
        needs,
        positions=positions,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        default_slots=1 if one_slot else DEFAULT_SLOTS[target.type],
        memory_bytes=needs.weight_bytes
        + int(free_bytes(target) * MEMORY_SHARE[target.type]),
    )
    return TransformersSlotEngine(
        model,
        num_slots=limits.max_num_seqs,
        max_model_len=limits.max_model_len,
        max_num_batched_tokens=max_num_batched_tokens,
        enforce_eager=eager,
        compile_after=compile_after,
        max_loras=(max_loras or limits.max_num_seqs) if enable_lora else None,
        enable_prefix_caching=enable_prefix_caching,
        logprobs_mode=logprobs_mode,
    )


# -------------------------------------------------------------------- configuration


def _find_device(device: str) -> torch.device:
    if device not in DEVICES:
        raise ConfigError(
            f"device must be one of {', '.join(DEVICES)}, got {device!r}."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "device='cuda' was asked for, but torch sees no CUDA device. Check "
            "nvidia-smi and that torch is a build with CUDA, or pass device='cpu'.",
            name="transformers",
        )
    return torch.device(device)


def _check_config(
    path: Path, declared: Mapping[str, Any], *, trust_remote_code: bool
) -> Any:
    """Return the configuration of a model that is safe and supported."""
    if not trust_remote_code:
        check_code(declared, name=path)
    families.check_supported(declared)
    config = load_config(path, trust_remote_code=trust_remote_code)
    # Once more: the file may leave out options with defaults, such as layer types.
    families.check_supported(config.to_dict())
    return config


def _check_quantization(
    asked: str | None, method: str | None, *, enable_lora: bool
) -> None:
    """Refuse a method that the checkpoint does not have, and adapters on any."""
    if asked is not None and asked != method:
        stored = f"quantised ({method})" if method else "not quantised"
        raise ConfigError(
            f"quantization={asked!r} was asked for, and the checkpoint is {stored}. "
            "This backend serves weights as they are stored: leave quantization out, "
            f"or store them with {asked}."
        )
    if method and enable_lora:
        raise ConfigError(
            "enable_lora=True was asked for, and the checkpoint is quantised "
            f"({method}): adapters on it were not verified. Use the checkpoint that is "
            "not quantised."
        )


# -------------------------------------------------------------------------- weights


def load_model(
    path: Path,
    config: Any,
    dtype: str,
    *,
    device_map: Mapping[str, torch.device] | None = None,
    trust_remote_code: bool,
) -> Any:
    """Return a transformers model from safetensors, with every tensor in place.

    Raises:
        ModelLoadError: transformers cannot load it, or a tensor is missing, has another
            shape or has no place.
    """
    unset: Any = GenerationConfig
    tensors = list(stored_tensors(path))
    if not trust_remote_code:
        check_size(path, config, tensors)
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                without_adapter(path),
                config=config,
                dtype=_DTYPES[dtype],
                device_map=device_map,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # `check_places` names them
                generation_config=unset(),  # the core reads the model's
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises any error of its parts
        if is_out_of_memory(error):
            raise
        files = sorted(file.name for file in path.glob("*.safetensors"))
        names = ", ".join([*files[:3], *["…"][: len(files) - 3]])
        raise ModelLoadError(
            f"transformers cannot load the weights of {path} with its config.json "
            f"({names}): {error}"
        ) from error
    model, info = loaded
    model.config.name_or_path = str(path)
    check_places(path, model.config, info, tensors)
    return model


def check_tensors(path: Path) -> None:
    """Compare the stored tensors of a model with its ``config.json``, and load none.

    For engines that leave gaps, or cut tensors to size, without an error. Models of
    families that were not verified here, quantised ones (ModelOpt says so in
    ``hf_quant_config.json``) and those with code of their own are left to the engine.

    Raises:
        ModelLoadError: A tensor is missing, has another shape or has no place.
    """
    declared = read_config(path)
    known = declared.get("model_type") in families.FAMILIES
    quantised = method_of(declared) or is_there(path / "hf_quant_config.json")
    if not known or declared.get("auto_map") or quantised:
        return
    if any(path.glob("*.safetensors")):
        nowhere = {"": torch.device("meta")}  # shapes alone
        config = load_config(path)
        load_model(path, config, "auto", device_map=nowhere, trust_remote_code=False)


def _rearrange_weights(model: Any) -> None:
    """Fuse projections and pack weights, in families where that was verified."""
    if family_of(model.config).recurrent:
        return
    fuse_projections(model)
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # returns the old weights to the device
    else:
        pack_linears(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Load without progress bars and advice; the caller's settings stay as they are.

    The advice is about ``generation_config.json``, which the model's own ``generate``
    would use and the core reads by its own rules; and about tensors, which
    `check_places` checks.
    """
    advice = logging.getLogger("transformers.generation.configuration_utils")
    report = logging.getLogger("transformers.modeling_utils")
    # Threads may load at once, so no thread restores a state that it found.
    advice.addFilter(_reject)
    report.addFilter(_reject_report)
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        advice.removeFilter(_reject)
        report.removeFilter(_reject_report)
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _reject(_: logging.LogRecord) -> bool:
    return False


def _reject_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
