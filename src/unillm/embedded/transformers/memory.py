# SPDX-License-Identifier: Apache-2.0

"""What weights and cache take, and how many slots of which length fit.

Plain arithmetic on configurations and on the headers of safetensors files: nothing is
loaded, and torch is only asked how much memory of a GPU is free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from ...errors import ConfigError, UnsupportedModelError
from .checkpoint import ITEM_BYTES, StoredTensor, load_config, stored_tensors

GIB = 2**30

CACHE_SHARE = 0.5
"""Part of the memory that is free after loading which the cache may take by default.
The rest is for activations, logits and everybody else."""

DEFAULT_SLOTS = {"cpu": 8, "cuda": 64}
"""What a decode step still serves at nearly the price of one row."""

SHORTEST_DEFAULT = 4096
"""Positions that a row has even if fewer slots then fit, unless the model has fewer."""

ALIGNMENT = 64
"""Positions are counted in blocks of this many: rows of the cache, and what attention
reads of them. Masks that are a multiple of it wide suit the CUDA kernels too."""

_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def round_up(positions: int) -> int:
    """Return *positions*, rounded up to whole blocks of `ALIGNMENT`."""
    return -(-positions // ALIGNMENT) * ALIGNMENT


@attrs.frozen(kw_only=True)
class KvShape:
    """What one position of one row holds."""

    layers: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> KvShape:
        """Read it from a transformers configuration.

        Raises:
            UnsupportedModelError: It is not one of layers of attention heads.
        """
        config = config.get_text_config(decoder=True)
        try:
            heads = config.num_attention_heads
            return cls(
                layers=config.num_hidden_layers,
                kv_heads=getattr(config, "num_key_value_heads", None) or heads,
                head_dim=getattr(config, "head_dim", None)
                or config.hidden_size // heads,
            )
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{config.model_type!r} has no key-value cache of layers, heads and "
                f"positions: {error}."
            ) from error

    def bytes_per_token(self, item_bytes: int) -> int:
        """Keys and values of all layers, with numbers of *item_bytes* each."""
        return 2 * self.layers * self.kv_heads * self.head_dim * item_bytes

    def cache_bytes(
        self, *, num_slots: int, max_model_len: int, item_bytes: int
    ) -> int:
        """Return the size of a whole cache."""
        tokens = num_slots * round_up(max_model_len)
        return tokens * self.bytes_per_token(item_bytes)


@attrs.frozen(kw_only=True)
class MemoryEstimate:
    """What a model takes. Activations are not in it."""

    weight_bytes: int
    kv_bytes_per_token: int
    cache_bytes: int

    @property
    def total_bytes(self) -> int:
        """Weights and cache together."""
        return self.weight_bytes + self.cache_bytes

    def __str__(self) -> str:
        return (
            f"weights {self.weight_bytes / GIB:.2f} GiB, cache "
            f"{self.cache_bytes / GIB:.2f} GiB ({self.kv_bytes_per_token:,} bytes a "
            f"token)"
        )


def estimate(
    path: Path, *, num_slots: int, max_model_len: int, dtype: str = "auto"
) -> MemoryEstimate:
    """Say what a model directory would take, without loading it.

    Args:
        path: Directory with ``config.json`` and safetensors files.
        num_slots: Rows of the cache.
        max_model_len: Positions of a row.
        dtype: As in `EngineConfig`; "auto" is the checkpoint's.

    Raises:
        ModelLoadError: A file is missing or cannot be read.
        UnsupportedModelError: The model keeps something else than keys and values.
    """
    config = load_config(path)
    tensors = list(stored_tensors(path))
    item_bytes = _item_bytes(dtype, config, tensors)
    shape = KvShape.of(config)
    return MemoryEstimate(
        weight_bytes=sum(tensor.bytes_as(item_bytes) for tensor in tensors),
        kv_bytes_per_token=shape.bytes_per_token(item_bytes),
        cache_bytes=shape.cache_bytes(
            num_slots=num_slots, max_model_len=max_model_len, item_bytes=item_bytes
        ),
    )


def _item_bytes(dtype: str, config: Any, tensors: Iterable[StoredTensor]) -> int:
    if dtype == "auto":
        dtype = str(config.dtype).removeprefix("torch.")
    if dtype in _DTYPE_BYTES:
        return _DTYPE_BYTES[dtype]
    # A configuration that names no dtype: transformers takes that of the weights.
    return next((ITEM_BYTES[t.dtype] for t in tensors if t.is_floating), 4)


# --------------------------------------------------------------------------- what fits


@attrs.frozen(kw_only=True)
class SlotPlan:
    """How many rows of how many positions."""

    num_slots: int
    max_model_len: int


def check_model_len(max_model_len: int | None, *, positions: int) -> None:
    """Raise `ConfigError` if a row would be longer than the model has positions."""
    if max_model_len is not None and max_model_len > positions:
        raise ConfigError(
            f"max_model_len={max_model_len} is more than the {positions} positions "
            f"that the model was made for. Pass max_model_len={positions} or less."
        )


def plan_slots(
    *,
    positions: int,
    max_model_len: int | None,
    max_num_seqs: int | None,
    default_slots: int,
    free_bytes: int,
    bytes_per_token: int,
) -> SlotPlan:
    """Fill in what the user left open, so that the cache fits `CACHE_SHARE` of memory.

    What is given is kept, whatever it takes. A length that is not given is the model's,
    or as many positions as fit with the default number of slots, but not less than
    `SHORTEST_DEFAULT`; a number of slots that is not given is the default, or as many
    as fit with that length, but at least one.

    Args:
        positions: Positions that the model knows.
        max_model_len: What the user asked, or `None`.
        max_num_seqs: What the user asked, or `None`.
        default_slots: Rows, if they fit.
        free_bytes: Memory that is free once the weights are loaded.
        bytes_per_token: Of keys and values.
    """
    tokens = int(free_bytes * CACHE_SHARE) // bytes_per_token
    length = max_model_len
    if length is None:
        fits = tokens // (max_num_seqs or default_slots) // ALIGNMENT * ALIGNMENT
        length = min(positions, max(fits, SHORTEST_DEFAULT))
    slots = max_num_seqs
    if slots is None:
        slots = max(1, min(default_slots, tokens // round_up(length)))
    return SlotPlan(num_slots=slots, max_model_len=length)


def free_bytes(device: Any) -> int:
    """Return how much memory of a `torch.device` nobody uses."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return int(min(_free_host_bytes(), _free_group_bytes()))


def _free_host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")


def _free_group_bytes(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return what the container's limit leaves; infinity where there is none."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = (root / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit) - int(used)
