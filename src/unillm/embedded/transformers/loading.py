# SPDX-License-Identifier: Apache-2.0

"""From a model directory to an engine: checked first, then loaded.

Nothing is downloaded for a local path, no code of a checkpoint runs unless it is
allowed, and weights are safetensors or refused. transformers fills tensors that a
checkpoint lacks with random numbers and only warns; here that is an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ...errors import (
    BackendUnavailableError,
    ConfigError,
    EngineOutOfMemoryError,
    ModelLoadError,
    ModelNotFoundError,
)
from ...memory import GIB, KvShape, estimate, positions_of
from .checkpoint import check_code, check_weights, load_config, read_config
from .engine import TransformersSlotEngine
from .families import check_supported
from .lora import require_peft
from .memory import (
    DEFAULT_SLOTS,
    check_model_len,
    free_bytes,
    is_out_of_memory,
    out_of_memory,
    plan_slots,
)

DEVICES = ("auto", "cpu", "cuda")

_DTYPES: Mapping[str, Any] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHOWN_KEYS = 5


def load_engine(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    trust_remote_code: bool = False,
    enforce_eager: bool = False,
    enable_lora: bool = False,
    max_loras: int | None = None,
) -> TransformersSlotEngine:
    """Load a model and make its slots.

    Args:
        path: A directory. A text that is none, and that could be the id of a model of
            the Hugging Face hub, is taken for one.
        dtype: Of weights and cache: "auto" (the checkpoint's), "float32", "bfloat16" or
            "float16".
        device: "auto" is CUDA where there is one, else the CPU.
        max_model_len: Prompt and new tokens of a slot; `None` for what the model knows
            and memory allows.
        max_num_seqs: Slots; `None` for 8 on CPU and 64 on CUDA, if memory allows. How
            both are chosen: `memory.plan_slots`.
        trust_remote_code: Run the model code that comes with the checkpoint.
        enforce_eager: Call the model as it is in every decode step.
        enable_lora: Take requests with adapters.
        max_loras: Adapters at a time; `None` for as many as slots.

    Raises:
        ConfigError: An option has no such value, or is more than the model can.
        ModelNotFoundError: There is no such directory, or model on the hub.
        ModelLoadError: A file is missing, broken or does not match the others.
        UnsafeModelError: Loading would run code from the checkpoint.
        UnsupportedModelError: The model cannot be held in slots; says why.
        BackendUnavailableError: The device is not there.
        EngineOutOfMemoryError: Weights or cache do not fit.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}.")
    if enable_lora:
        require_peft()
    target = _find_device(device)
    name = _find_model(path)
    config = _check_config(name, trust_remote_code=trust_remote_code)
    positions = positions_of(config)
    check_model_len(max_model_len, positions=positions)
    too_large = partial(
        _too_large,
        name,
        dtype=dtype,
        device=target,
        num_slots=max_num_seqs or 1,
        max_model_len=max_model_len or positions,
    )
    if isinstance(name, Path):
        check_weights(name)
        _check_weights_fit(name, dtype, target, too_large)
    try:
        model = _load_model(name, config, dtype, trust_remote_code=trust_remote_code)
        model.to(target)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_large() from error
    plan = plan_slots(
        positions=positions,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        default_slots=DEFAULT_SLOTS[target.type],
        free_bytes=free_bytes(target),
        bytes_per_token=KvShape.of(config).bytes_per_token(model.dtype.itemsize),
    )
    return TransformersSlotEngine(
        model,
        num_slots=plan.num_slots,
        max_model_len=plan.max_model_len,
        enforce_eager=enforce_eager,
        max_loras=(max_loras or plan.num_slots) if enable_lora else None,
    )


# ------------------------------------------------------------------ before the weights


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


def _find_model(path: str | Path) -> str | Path:
    """Return a directory, or the id of a model of the hub."""
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory
    if isinstance(path, str) and _HUB_ID.fullmatch(path):
        return path
    raise ModelNotFoundError(f"There is no model directory {path}.")


def _check_config(name: str | Path, *, trust_remote_code: bool) -> Any:
    """Return the configuration of a model that is safe and supported."""
    declared = read_config(name) if isinstance(name, Path) else _read_hub_config(name)
    if not trust_remote_code:
        check_code(declared, name=name)
    check_supported(declared)
    config = load_config(name, trust_remote_code=trust_remote_code)
    # Once more: what the file leaves out has defaults, layer types among them.
    check_supported(config.to_dict())
    return config


def _read_hub_config(name: str) -> Mapping[str, Any]:
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        raise ModelNotFoundError(
            f"There is no model directory {name}, and no model of that name on the hub "
            f"or in its cache: {error}"
        ) from error
    return dict(config)


def _check_weights_fit(
    path: Path,
    dtype: str,
    device: torch.device,
    too_large: Callable[[], EngineOutOfMemoryError],
) -> None:
    needed = estimate(path, num_slots=0, max_model_len=0, dtype=dtype)
    if needed.weight_bytes > free_bytes(device):
        raise too_large()


def _too_large(
    name: str | Path,
    *,
    dtype: str,
    device: torch.device,
    num_slots: int,
    max_model_len: int,
) -> EngineOutOfMemoryError:
    """Make the error of weights that do not fit."""
    what = f"The weights of {name} do not fit"
    if not isinstance(name, Path):
        return EngineOutOfMemoryError(
            f"{what}: {free_bytes(device) / GIB:.2f} GiB are free on {device}. Use a "
            "smaller dtype or a smaller model."
        )
    return out_of_memory(
        what,
        needed=estimate(
            name, num_slots=num_slots, max_model_len=max_model_len, dtype=dtype
        ),
        num_slots=num_slots,
        max_model_len=max_model_len,
        device=device,
    )


# ------------------------------------------------------------------------- the weights


def _load_model(
    name: str | Path, config: Any, dtype: str, *, trust_remote_code: bool
) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with _silently():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                config=config,
                dtype=_DTYPES[dtype],
                use_safetensors=True,
                local_files_only=isinstance(name, Path),
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises whatever its parts raise
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"transformers cannot load the weights of {name}: {error}"
        ) from error
    model, info = loaded
    _check_complete(name, info)
    return model


def _check_complete(name: str | Path, info: Mapping[str, Any]) -> None:
    """Refuse a model whose gaps transformers has filled with random numbers."""
    missing = sorted(info["missing_keys"])
    mismatched = sorted(key for key, *_shapes in info["mismatched_keys"])
    if not missing and not mismatched:
        return
    facts = [
        f"{len(keys)} tensors {what} ({', '.join(keys[:_SHOWN_KEYS])}"
        f"{', …' if len(keys) > _SHOWN_KEYS else ''})"
        for keys, what in ((missing, "missing"), (mismatched, "of another shape"))
        if keys
    ]
    raise ModelLoadError(
        f"The weights of {name} do not match its config.json: {', '.join(facts)}."
    )


@contextmanager
def _silently() -> Iterator[None]:
    """Load without progress bars and advice, and leave the caller's settings alone.

    The advice is about ``generation_config.json``, from which this model will never
    generate: the core reads that file by its own rules.
    """
    advice = logging.getLogger("transformers.generation.configuration_utils")
    advice.addFilter(_nothing)
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        advice.removeFilter(_nothing)
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _nothing(_: logging.LogRecord) -> bool:
    return False
