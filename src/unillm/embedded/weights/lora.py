# SPDX-License-Identifier: Apache-2.0

"""LoRA adapters on the model of a slot engine: each row is computed with its own.

peft puts the adapters beside the layers that they change and computes them. This module
checks an adapter against the model before it loads any of it, keeps as many adapters as
were allowed, and gives the layers the adapter of each row before a forward pass.

An adapter is two matrices for each layer; an adapter whose files ask for more is
refused. Its configuration is read as data, and the names of its tensors decide which
layers it changes, not the patterns that it was trained with.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ...distributions import install
from ...errors import BackendUnavailableError, InvalidParameterError, ModelLoadError
from ...lora import WEIGHTS_FILE, LoRARequest, read_adapter_config
from ...model.checkpoint import StoredTensor, read_tensors

BASE = "__base__"
"""peft's name for a row without an adapter."""

_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")

_PLAIN_NAME = re.compile(r"\^?[\w.]+")
"""Keys of ``rank_pattern`` and ``alpha_pattern`` that peft can match in no time."""

_UNCHANGED_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the model's own weights as they are."""

_SERVED = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Fields of ``adapter_config.json`` that are honoured, or that only describe the
training and the layers, which the tensors name too. Any other field asks for more."""

_PLANS_KEPT = 256
"""Adapters whose checks are remembered."""


def require_peft() -> None:
    """Raise `BackendUnavailableError` if peft is not installed."""
    if find_spec("peft") is None:
        remedy = install("lora")
        raise BackendUnavailableError(
            "enable_lora=True needs peft, which is not installed. Run: " + remedy,
            name="transformers",
            remedy=remedy,
        )


class Adapters:
    """The adapters of one model.

    Args:
        model: The model on its device, in its dtype. The layers that adapters change
            are wrapped.
        max_loras: Adapters kept in memory; a new one replaces the least recently used.

    Raises:
        BackendUnavailableError: peft is not installed.
    """

    def __init__(self, model: Any, *, max_loras: int) -> None:
        require_peft()
        self.max_loras = max_loras
        self._model = model
        plan = partial(_plan, layers=_layers_with_rows(model))
        self._plan = lru_cache(_PLANS_KEPT)(plan)
        self._loaded: OrderedDict[LoRARequest, str] = OrderedDict()
        self._tuner: Any = None
        self._hooked: set[str] = set()
        self._rows: list[str] = []

    def check(self, request: LoRARequest) -> None:
        """Check that an adapter fits the model, without loading it.

        Raises:
            InvalidParameterError: It does not fit; names the reason.
        """
        if request not in self._loaded:
            self._plan(request)

    def load(
        self, request: LoRARequest, *, in_use: Iterable[LoRARequest | None]
    ) -> None:
        """Load an adapter into the model, unless it is there.

        Args:
            request: The adapter.
            in_use: Adapters that must stay: fewer than `max_loras` beside this one.

        Raises:
            InvalidParameterError: It does not fit, or its weights cannot be read.
        """
        if request in self._loaded:
            self._loaded.move_to_end(request)
            return
        plan = self._plan(request)
        weights = _read_weights(request, plan, self._model.dtype)
        stay = set(in_use)
        while len(self._loaded) >= self.max_loras:
            self._drop(next(old for old in self._loaded if old not in stay))
        self._inject(request, plan, weights)

    @contextmanager
    def rows(self, owners: Sequence[LoRARequest | None]) -> Iterator[None]:
        """Apply loaded adapters to the rows of forward passes inside the context."""
        self._rows = [BASE if each is None else self._loaded[each] for each in owners]
        try:
            yield
        finally:
            self._rows = []

    def _inject(
        self, request: LoRARequest, plan: _Plan, weights: Mapping[str, Tensor]
    ) -> None:
        from peft import LoraConfig, LoraModel, set_peft_model_state_dict

        name = f"adapter_{request.lora_int_id}"
        config = LoraConfig(**plan.options)
        if self._tuner is None:
            self._tuner = LoraModel(self._model, config, name, low_cpu_mem_usage=True)
        else:
            self._tuner.peft_config[name] = config
            self._tuner.inject_adapter(self._model, name, low_cpu_mem_usage=True)
        self._loaded[request] = name
        set_peft_model_state_dict(self._model, weights, name, low_cpu_mem_usage=True)
        self._tuner.set_adapter([], inference_mode=True)  # rows choose, not the model
        self._model.eval()
        for layer in set(plan.layers) - self._hooked:
            wrapped = self._model.get_submodule(layer)
            wrapped.register_forward_pre_hook(self._pass_rows, with_kwargs=True)
            self._hooked.add(layer)

    def _drop(self, request: LoRARequest) -> None:
        self._tuner.delete_adapter(self._loaded.pop(request))

    def _pass_rows(
        self, _: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "adapter_names": self._rows}


def _read_weights(
    request: LoRARequest, plan: _Plan, dtype: torch.dtype
) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(Path(request.lora_path) / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise _refusal(request, f"its weights cannot be read: {error}") from error
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != plan.shapes:
        raise _refusal(request, "its weights changed after they were checked")
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def _refusal(request: LoRARequest, reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"The adapter {request.lora_name!r} in {request.lora_path} cannot be served: "
        f"{reason}.",
        parameter="lora_request",
        value=request,
    )


# --------------------------------------------------------------------------- checks


@attrs.frozen
class _Layer:
    """A layer that an adapter may change."""

    inputs: int
    outputs: int
    transposed: bool
    """Whether its weights are ``[inputs, outputs]``, as GPT-2 has them."""


@attrs.frozen
class _Plan:
    """The changes of an adapter that was checked."""

    layers: tuple[str, ...]
    """Names of the layers that it changes."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of its tensors, by name."""
    options: Mapping[str, Any]
    """Arguments of peft's `LoraConfig`."""


class _UnfitError(Exception):
    """Reason why an adapter cannot be served."""


def _plan(request: LoRARequest, layers: Mapping[str, _Layer]) -> _Plan:
    """Check an adapter and return its changes; raise `InvalidParameterError`."""
    path = Path(request.lora_path)
    try:
        config = read_adapter_config(path)
        tensors = list(read_tensors(path / WEIGHTS_FILE))
        _check_config(config)
        names = _check_tensors(config, tensors, layers)
    except _UnfitError as error:
        raise _refusal(request, str(error)) from None
    except (OSError, ValueError, ModelLoadError) as error:
        raise _refusal(request, f"it cannot be read: {error}") from error
    return _Plan(
        layers=names,
        shapes={tensor.name: tensor.shape for tensor in tensors},
        options={
            "r": config["r"],
            "lora_alpha": config.get("lora_alpha", 8),
            "target_modules": list(names),
            "rank_pattern": config.get("rank_pattern") or {},
            "alpha_pattern": config.get("alpha_pattern") or {},
            "fan_in_fan_out": any(layers[name].transposed for name in names),
            "use_rslora": bool(config.get("use_rslora")),
            "inference_mode": True,
        },
    )


def _check_config(config: Mapping[str, Any]) -> None:
    for name in sorted(config.keys() - _SERVED):
        if config[name]:
            raise _UnfitError(f"{name}={config[name]!r} is not served")
    if config.get("bias", "none") != "none":
        raise _UnfitError(f"bias={config['bias']!r} is not served")
    for name in ("rank_pattern", "alpha_pattern"):
        for key, value in (config.get(name) or {}).items():
            if not _PLAIN_NAME.fullmatch(key) or not _is_number(value):
                raise _UnfitError(f"{name} has {key!r}: {value!r}")
    for name in ("r", "lora_alpha"):
        if not _is_number(config.get(name, 8)):
            raise _UnfitError(f"{name} is {config[name]!r}, not a number > 0")
    if (start := config.get("init_lora_weights")) not in _UNCHANGED_BASE:
        raise _UnfitError(
            f"init_lora_weights={start!r} changes the model's own weights too, for all "
            "requests. Save it again as a plain adapter (peft: save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _rank_of(config: Mapping[str, Any], layer: str) -> int:
    """Return the rank that peft reads for a layer's matrices."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("rank_pattern") or {}
    return int(patterns.get(get_pattern_key(list(patterns), layer), config["r"]))


def _check_tensors(
    config: Mapping[str, Any],
    tensors: Iterable[StoredTensor],
    layers: Mapping[str, _Layer],
) -> tuple[str, ...]:
    """Return the names of the layers whose two matrices fit; raise for any other."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in tensors:
        found = _TENSOR.fullmatch(tensor.name)
        if found is None or not tensor.is_floating or len(tensor.shape) != 2:
            raise _UnfitError(f"{tensor.name} is not a LoRA matrix")
        sides.setdefault(found["layer"], {})[found["side"]] = tensor.shape
    if not sides:
        raise _UnfitError("it has no tensors")
    made_for = config.get("base_model_name_or_path")
    for layer, shapes in sides.items():
        if layer not in layers:
            raise _UnfitError(
                f"it changes {layer}, which is not a layer of this model that computes "
                f"each row alone. It was made for {made_for!r}"
            )
        if shapes.keys() != {"A", "B"}:
            raise _UnfitError(f"{layer} lacks one of its two matrices")
        inputs, outputs = layers[layer].inputs, layers[layer].outputs
        rank = shapes["A"][0]
        if rank != (declared := _rank_of(config, layer)):
            raise _UnfitError(
                f"its matrices for {layer} have rank {rank}, and its configuration "
                f"has rank {declared}"
            )
        if (shapes["A"], shapes["B"]) != ((rank, inputs), (outputs, rank)):
            raise _UnfitError(
                f"its matrices for {layer} are {_by(shapes['A'])} and "
                f"{_by(shapes['B'])}, and the layer has {inputs} inputs and {outputs} "
                f"outputs. It was made for {made_for!r}"
            )
    return tuple(sorted(sides))


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


# --------------------------------------------------------------------------- layers


def _layers_with_rows(model: Any) -> Mapping[str, _Layer]:
    """Return every linear layer whose input has one row for each request.

    A pass of two rows finds them: routed experts get a mix of all rows' tokens, and the
    output layer gets the last tokens alone.
    """
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    seen: set[torch.nn.Module] = set()

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs and inputs[0].shape[:2] == (2, 3):
            seen.add(module)

    hooks = [module.register_forward_pre_hook(note) for module in linear.values()]
    try:
        with torch.inference_mode():
            ids = torch.zeros(2, 3, dtype=torch.int64, device=model.device)
            model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: _as_layer(module) for name, module in linear.items() if module in seen
    }


def _as_layer(module: torch.nn.Linear | Conv1D) -> _Layer:
    if isinstance(module, Conv1D):
        return _Layer(module.nx, module.nf, transposed=True)
    return _Layer(module.in_features, module.out_features, transposed=False)
