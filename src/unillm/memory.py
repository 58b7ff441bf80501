# SPDX-License-Identifier: Apache-2.0

"""What a model takes of memory, by part, and what would fit: one estimate for all.

Plain arithmetic on configurations and on the headers of safetensors files: nothing is
loaded, and neither an engine nor a device is needed. `unillm plan` and the errors of
whatever does not fit tell these numbers, on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from .embedded.transformers.checkpoint import (
    ITEM_BYTES,
    StoredTensor,
    load_config,
    stored_tensors,
)
from .errors import EngineOutOfMemoryError, UnsupportedModelError

GIB = 2**30

CACHE_SHARE = 0.5
"""Part of the memory that is free after loading which the cache may take by default.
The rest is for activations, logits and everybody else."""

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


def model_positions(path: Path) -> int:
    """Return how many positions the model in a directory was made for.

    Raises:
        ModelLoadError: Its configuration cannot be read.
    """
    return positions_of(load_config(path))


@attrs.frozen(kw_only=True)
class Limits:
    """What an engine is sized for."""

    max_num_seqs: int
    """Requests worked on at a time."""
    max_model_len: int
    """Tokens of each, prompt and new ones."""
    max_num_batched_tokens: int
    """Tokens of one step."""


@attrs.frozen(kw_only=True)
class MemoryEstimate:
    """What a model takes, by part."""

    weight_bytes: int
    kv_bytes_per_token: int
    cache_bytes: int
    activation_bytes: int = 0
    """Of one step; 0 where they are not estimated."""
    workspace_bytes: int = 0
    """Of the engine, whatever the model; 0 where it is not known."""

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return (
            self.weight_bytes
            + self.cache_bytes
            + self.activation_bytes
            + self.workspace_bytes
        )

    def __str__(self) -> str:
        return (
            f"weights {self.weight_bytes / GIB:.2f} GiB, cache "
            f"{self.cache_bytes / GIB:.2f} GiB ({self.kv_bytes_per_token:,} bytes a "
            f"token)"
        )


@attrs.frozen(kw_only=True)
class MemoryNeeds:
    """What a model takes for each of what: an estimate that the limits are left out of.

    Linear in all of them, so that what would fit can be told.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    """Keys and values of all layers."""
    activation_bytes_per_token: int
    """Of one token in a step, at the layer where most is alive."""
    logit_bytes_per_seq: int
    """Of what is computed with the logits of one request in a step."""
    workspace_bytes: int = 0
    """Of the engine, whatever the model."""
    block_size: int = ALIGNMENT
    """Tokens that the cache is given out in."""

    def estimate(self, limits: Limits) -> MemoryEstimate:
        """Return what an engine of these limits takes with all its requests full."""
        blocks = -(-limits.max_model_len // self.block_size)
        tokens = limits.max_num_seqs * blocks * self.block_size
        in_step = max(limits.max_num_batched_tokens, limits.max_num_seqs)
        return MemoryEstimate(
            weight_bytes=self.weight_bytes,
            kv_bytes_per_token=self.kv_bytes_per_token,
            cache_bytes=tokens * self.kv_bytes_per_token,
            activation_bytes=in_step * self.activation_bytes_per_token
            + limits.max_num_seqs * self.logit_bytes_per_seq,
            workspace_bytes=self.workspace_bytes,
        )

    def largest(self, limits: Limits, memory_bytes: int) -> dict[str, int]:
        """Return the largest value of each limit that fits while the others stay.

        Args:
            limits: What is asked; nothing larger is looked for.
            memory_bytes: What there is.

        Returns:
            By the names of `Limits`; 0 where none fits.
        """

        def fits(name: str, value: int) -> bool:
            changed = attrs.evolve(limits, **{name: value})
            return self.estimate(changed).total_bytes <= memory_bytes

        return {
            name: _largest(lambda value, name=name: fits(name, value), asked)  # type: ignore[misc]
            for name, asked in attrs.asdict(limits).items()
        }

    def largest_together(self, limits: Limits, memory_bytes: int) -> Limits | None:
        """Return the limits, lowered by the same share, that fit; `None` if none do.

        Args:
            limits: What is asked; nothing larger is looked for.
            memory_bytes: What there is.
        """

        def lowered(thousandths: int) -> Limits:
            return Limits(
                **{
                    name: max(1, asked * thousandths // 1000)
                    for name, asked in attrs.asdict(limits).items()
                }
            )

        share = _largest(
            lambda each: self.estimate(lowered(each)).total_bytes <= memory_bytes, 1000
        )
        return lowered(share) if share else None

    def sharded(self, num_devices: int) -> MemoryNeeds:
        """Return what one of several devices takes that share weights and cache.

        Activations are counted in full: not all of them are shared.
        """
        return attrs.evolve(
            self,
            weight_bytes=-(-self.weight_bytes // num_devices),
            kv_bytes_per_token=-(-self.kv_bytes_per_token // num_devices),
        )


def _largest(fits: Callable[[int], bool], asked: int) -> int:
    """Return the largest number up to *asked* that fits; 0 if none does."""
    low, high = 0, asked
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def memory_needs(path: Path, *, dtype: str = "auto") -> MemoryNeeds:
    """Read from a model directory what the model takes, without loading it.

    Args:
        path: Directory with ``config.json`` and safetensors files.
        dtype: As in `EngineConfig`; "auto" is the checkpoint's.

    Raises:
        ModelLoadError: A file is missing or cannot be read.
        UnsupportedModelError: The model keeps something else than keys and values.
    """
    config = load_config(path)
    tensors = list(stored_tensors(path))
    item_bytes = _item_bytes(dtype, config, tensors)
    return MemoryNeeds(
        weight_bytes=sum(tensor.bytes_as(item_bytes) for tensor in tensors),
        kv_bytes_per_token=KvShape.of(config).bytes_per_token(item_bytes),
        activation_bytes_per_token=_activation_bytes(config, item_bytes),
        logit_bytes_per_seq=_LOGIT_COPIES * 4 * config.get_text_config().vocab_size,
    )


def estimate(
    path: Path, *, num_slots: int, max_model_len: int, dtype: str = "auto"
) -> MemoryEstimate:
    """Say what weights and cache of a model directory take, without loading it.

    Args:
        path: Directory with ``config.json`` and safetensors files.
        num_slots: Rows of the cache.
        max_model_len: Positions of a row.
        dtype: As in `EngineConfig`; "auto" is the checkpoint's.

    Raises:
        ModelLoadError: A file is missing or cannot be read.
        UnsupportedModelError: The model keeps something else than keys and values.
    """
    needs = memory_needs(path, dtype=dtype)
    limits = Limits(
        max_num_seqs=num_slots, max_model_len=max_model_len, max_num_batched_tokens=0
    )
    return attrs.evolve(needs.estimate(limits), activation_bytes=0)


def _item_bytes(dtype: str, config: Any, tensors: Iterable[StoredTensor]) -> int:
    if dtype == "auto":
        dtype = str(config.dtype).removeprefix("torch.")
    if dtype in _DTYPE_BYTES:
        return _DTYPE_BYTES[dtype]
    # A configuration that names no dtype: transformers takes that of the weights.
    return next((ITEM_BYTES[t.dtype] for t in tensors if t.is_floating), 4)


_LOGIT_COPIES = 4
"""Of float32, alive at once while tokens are sampled."""


def _activation_bytes(config: Any, item_bytes: int) -> int:
    """Return what one token takes in the layer where most is alive: the MLP.

    Gate, up and their product are there at once, beside the residual, its norm and the
    output. Of a mixture of experts, those of the experts that a token goes to.
    """
    config = config.get_text_config(decoder=True)
    hidden: int = config.hidden_size
    names = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    found = (getattr(config, name, None) for name in names)
    width = next((size for size in found if isinstance(size, int)), 4 * hidden)
    experts = getattr(config, "num_experts_per_tok", None) or 1
    expert_width = getattr(config, "moe_intermediate_size", None) or width
    return item_bytes * 3 * (max(width, experts * expert_width) + hidden)


# ------------------------------------------------------------------ what does not fit


def out_of_memory(
    what: str,
    *,
    needed: MemoryEstimate,
    num_slots: int,
    max_model_len: int,
    free: int,
    device: object,
    loaded_bytes: int = 0,
    asked: int = 0,
) -> EngineOutOfMemoryError:
    """Make the error of whatever did not fit, with all numbers and what would fit.

    Args:
        what: Opens the message: what was under way.
        needed: Weights, and the cache of these slots.
        num_slots: Rows.
        max_model_len: Positions of a row.
        free: Bytes that nobody uses there.
        device: Where, for the message.
        loaded_bytes: What of *needed* is in memory already.
        asked: What the allocation asked for that failed beside it.
    """
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
