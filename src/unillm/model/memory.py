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

from ..errors import EngineOutOfMemoryError
from .checkpoint import ITEM_BYTES, StoredTensor, load_config, stored_tensors
from .sizes import (
    ALIGNMENT,
    LOGIT_COPIES,
    ActivationShape,
    KvShape,
    StateShape,
)

GIB = 2**30

HEADROOM = 0.95
"""Part of the memory that may be planned for: activations are known within a quarter,
and an allocator does not use every byte."""

_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


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
            f"token), activations {self.activation_bytes / GIB:.2f} GiB"
        )


@attrs.frozen(kw_only=True)
class MemoryNeeds:
    """What a model takes for each of what: an estimate that the limits are left out of.

    It grows with each of them, so that what would fit can be told.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    """Keys and values of all layers."""
    activation_bytes_per_token: int
    """Of one token in a step, at the layer where most is alive."""
    logit_bytes_per_seq: int
    """Of what is computed with the logits of one request in a step."""
    pair_bytes: int = 0
    """Of one token in a step and one position that it may see."""
    position_bytes: int = 0
    """Of one position of one request, while a step reads it."""
    state_bytes_per_seq: int = 0
    """What recurrent layers hold of one request, whatever its length."""
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
            cache_bytes=tokens * self.kv_bytes_per_token
            + limits.max_num_seqs * self.state_bytes_per_seq,
            # What the layers need is gone when tokens are sampled.
            activation_bytes=max(
                in_step * self.activation_bytes_per_token
                + in_step * limits.max_model_len * self.pair_bytes,
                limits.max_num_seqs * self.logit_bytes_per_seq,
                limits.max_num_seqs * limits.max_model_len * self.position_bytes,
            ),
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
    return needs_of(
        config,
        weight_bytes=sum(tensor.bytes_as(item_bytes) for tensor in tensors),
        item_bytes=item_bytes,
    )


def needs_of(config: Any, *, weight_bytes: int, item_bytes: int) -> MemoryNeeds:
    """Return what a model with a transformers configuration takes.

    Args:
        config: Of the model.
        weight_bytes: Known from elsewhere.
        item_bytes: Of one number of the model's dtype.

    Raises:
        UnsupportedModelError: The model keeps something else than keys and values.
    """
    activations = ActivationShape.of(config)
    return MemoryNeeds(
        weight_bytes=weight_bytes,
        kv_bytes_per_token=KvShape.of(config).bytes_per_token(item_bytes),
        state_bytes_per_seq=StateShape.of(config).bytes_per_seq(item_bytes),
        activation_bytes_per_token=activations.bytes_per_token(item_bytes),
        pair_bytes=activations.bytes_per_pair(item_bytes),
        position_bytes=activations.bytes_per_position(item_bytes),
        logit_bytes_per_seq=LOGIT_COPIES * 4 * config.get_text_config().vocab_size,
    )


def _item_bytes(dtype: str, config: Any, tensors: Iterable[StoredTensor]) -> int:
    if dtype == "auto":
        dtype = str(config.dtype).removeprefix("torch.")
    if dtype in _DTYPE_BYTES:
        return _DTYPE_BYTES[dtype]
    # A configuration that names no dtype: transformers takes that of the weights.
    return next((ITEM_BYTES[t.dtype] for t in tensors if t.is_floating), 4)


# ------------------------------------------------------------------ what does not fit


def out_of_memory(
    what: str,
    *,
    needs: MemoryNeeds,
    limits: Limits,
    free: int,
    device: object,
    loaded_bytes: int = 0,
    asked: int = 0,
) -> EngineOutOfMemoryError:
    """Make the error of whatever did not fit, with all numbers and what would fit.

    Args:
        what: Opens the message: what was under way.
        needs: Of the model.
        limits: Of the engine.
        free: Bytes that nobody uses there.
        device: Where, for the message.
        loaded_bytes: What the engine has in memory already.
        asked: What the allocation asked for that failed; 0 where nothing was asked.
    """
    needed = needs.estimate(limits)
    memory_bytes = int((free + loaded_bytes) * HEADROOM)
    if asked:
        # It was needed beside all that was there, whatever the estimate says.
        memory_bytes = min(memory_bytes, needed.total_bytes - asked)
    fitting = [
        f"{name}={value}"
        for name, value in needs.largest(limits, memory_bytes).items()
        if value
    ]
    advice = (
        f"By this estimate what fits is {' or '.join(fitting)}, each with the others "
        "as they are."
        if fitting
        else "Nothing of it fits: use lower limits together, a smaller dtype or a "
        "smaller model."
    )
    request = f" {asked / GIB:.2f} GiB more were asked for." if asked else ""
    given = ", ".join(f"{name}={value}" for name, value in attrs.asdict(limits).items())
    return EngineOutOfMemoryError(
        f"{what}: {needed}, for {given}; {free / GIB:.2f} GiB are free on {device}"
        f"{' beside what is loaded' if loaded_bytes else ''}.{request} {advice}",
    )
