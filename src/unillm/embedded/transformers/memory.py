# SPDX-License-Identifier: Apache-2.0

"""What weights and cache take, and how many slots of which length fit.

Plain arithmetic on configurations and on the headers of safetensors files: nothing is
loaded, and torch is only asked how much memory of a GPU is free. If it runs out all the
same, while loading or in a step, that is told with the same numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from ...errors import ConfigError, EngineOutOfMemoryError, UnsupportedModelError
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
                kv_heads=_kv_heads(config),
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


def _kv_heads(config: Any) -> int:
    heads: int = config.num_attention_heads
    if config.model_type in ("falcon", "gpt_bigcode"):
        # Falcon of the new architecture repeats its heads before it caches them.
        repeated = getattr(config, "new_decoder_architecture", False)
        return 1 if config.multi_query and not repeated else heads
    return getattr(config, "num_key_value_heads", None) or heads


UNBOUNDED = 2048
"""Positions of a model that has no bound and names none: what Bloom was trained on."""


def positions_of(config: Any) -> int:
    """Return how many positions a model was made for."""
    config = config.get_text_config(decoder=True)
    # The last two are MPT's and Bloom's name for it.
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    known = (getattr(config, name, None) for name in names)
    return next((positions for positions in known if positions), UNBOUNDED)


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


# ------------------------------------------------------------------ what does not fit

_ASKED = re.compile(r"[Tt]ried to allocate (?P<amount>[\d.]+) (?P<unit>bytes|[KMGT]iB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "TiB": 2**40}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    import torch

    # On the CPU, torch raises a plain RuntimeError.

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def asked_bytes(error: BaseException) -> int:
    """Return what an allocation that failed asked for; 0 if its error does not say."""
    found = _ASKED.search(str(error))
    return int(float(found["amount"]) * _UNITS[found["unit"]]) if found else 0


def out_of_memory(
    what: str,
    *,
    needed: MemoryEstimate,
    num_slots: int,
    max_model_len: int,
    device: Any,
    loaded_bytes: int = 0,
    asked: int = 0,
) -> EngineOutOfMemoryError:
    """Make the error of whatever did not fit, with all numbers and what would fit.

    Args:
        what: Opens the message: what was under way.
        needed: Weights, and the cache of these slots.
        num_slots: Rows.
        max_model_len: Positions of a row.
        device: Where.
        loaded_bytes: What of *needed* is in memory already.
        asked: What the allocation asked for that failed beside it.
    """
    free = free_bytes(device)
    room = free + loaded_bytes - needed.weight_bytes
    # The cache is as large as by default, and makes way for what did not fit.
    tokens = min(int(room * CACHE_SHARE), needed.cache_bytes - max(asked, 1))
    tokens //= needed.kv_bytes_per_token
    slots = tokens // round_up(max_model_len)
    length = min(tokens // num_slots // ALIGNMENT * ALIGNMENT, max_model_len)
    fitting = [
        text
        for fits, text in (
            (slots, f"max_num_seqs={slots} with this length"),
            (length, f"max_model_len={length} with these slots"),
        )
        if fits > 0
    ]
    advice = (
        f"By this estimate what fits is {', or '.join(fitting)}."
        if fitting
        else "Use fewer and shorter slots, a smaller dtype or a smaller model."
    )
    request = f" {asked / GIB:.2f} GiB more were asked for." if asked else ""
    return EngineOutOfMemoryError(
        f"{what}: {needed} for {num_slots} slots of {max_model_len} tokens; "
        f"{free / GIB:.2f} GiB are free on {device}"
        f"{' beside the weights' if loaded_bytes else ''}.{request} {advice}"
    )


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
