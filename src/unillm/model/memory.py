# SPDX-License-Identifier: Apache-2.0

"""The memory that a model takes, by part: one estimate for every backend.

Plain arithmetic on configurations and on the headers of safetensors files: nothing is
loaded, and neither an engine nor a device is needed. `fitting` finds the limits that
fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from ..errors import ModelLoadError
from .checkpoint import ITEM_BYTES, StoredTensor, stored_tensors
from .known_configs import describe_config
from .sizes import ALIGNMENT, LOGIT_COPIES, ActivationShape, KvShape, StateShape

GIB = 2**30

_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@attrs.frozen(kw_only=True)
class Limits:
    """The limits that an engine is sized for."""

    max_num_seqs: int
    """Requests served at the same time."""
    max_model_len: int
    """Prompt and new tokens of each request."""
    max_num_batched_tokens: int
    """Tokens of one step."""


@attrs.frozen(kw_only=True)
class MemoryEstimate:
    """Memory of an engine, by part."""

    weight_bytes: int
    kv_bytes_per_token: int
    cache_bytes: int
    activation_bytes: int = 0
    """Peak of one step; 0 where it is not estimated."""
    workspace_bytes: int = 0
    """Memory of the engine itself, whatever the model; 0 where it is not known."""

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
    """Memory cost per unit, before limits apply."""

    weight_bytes: int
    kv_bytes_per_token: int
    """Keys and values of all layers."""
    activation_bytes_per_token: int
    """Activations of one token in a step, at the layer that needs most."""
    logit_bytes_per_seq: int
    """Logits of one request in a step, and everything that sampling makes of them."""
    pair_bytes: int = 0
    """Masks and scores of one token in a step and one position that it may see."""
    position_bytes: int = 0
    """Memory of one position of one request, while a step reads it."""
    state_bytes_per_seq: int = 0
    """States of the recurrent layers of one request, whatever its length."""
    workspace_bytes: int = 0
    """Memory of the engine itself, whatever the model."""
    block_size: int = ALIGNMENT
    """Tokens of one block of the cache."""

    def estimate(self, limits: Limits) -> MemoryEstimate:
        """Return the memory of an engine with all its requests at full length."""
        blocks = -(-limits.max_model_len // self.block_size)
        tokens = limits.max_num_seqs * blocks * self.block_size
        in_step = max(limits.max_num_batched_tokens, limits.max_num_seqs)
        return MemoryEstimate(
            weight_bytes=self.weight_bytes,
            kv_bytes_per_token=self.kv_bytes_per_token,
            cache_bytes=tokens * self.kv_bytes_per_token
            + limits.max_num_seqs * self.state_bytes_per_seq,
            # A step frees the activations of the layers before it samples.
            activation_bytes=max(
                in_step * self.activation_bytes_per_token
                + in_step * limits.max_model_len * self.pair_bytes,
                limits.max_num_seqs * self.logit_bytes_per_seq,
                limits.max_num_seqs * limits.max_model_len * self.position_bytes,
            ),
            workspace_bytes=self.workspace_bytes,
        )

    def sharded(self, num_devices: int) -> MemoryNeeds:
        """Return the needs of one of several devices that share weights and cache.

        Activations count in full, because devices share only some of them.
        """
        return attrs.evolve(
            self,
            weight_bytes=-(-self.weight_bytes // num_devices),
            kv_bytes_per_token=-(-self.kv_bytes_per_token // num_devices),
        )


def memory_needs(path: Path, *, dtype: str = "auto") -> MemoryNeeds:
    """Return the needs of the model in a directory, without loading it.

    Args:
        path: Directory with ``config.json`` and safetensors files.
        dtype: Type of weights and cache, as `EngineConfig` names it; "auto" is the
            checkpoint's.

    Raises:
        ModelLoadError: A file is missing or cannot be read.
        UnsupportedModelError: The cache of the model is not one of keys and values.
    """
    config = describe_config(path)
    tensors = list(stored_tensors(path))
    item_bytes = item_bytes_of(dtype, config, tensors)
    return needs_of(
        config,
        weight_bytes=sum(tensor.bytes_as(item_bytes) for tensor in tensors),
        item_bytes=item_bytes,
    )


def needs_of(config: Any, *, weight_bytes: int, item_bytes: int) -> MemoryNeeds:
    """Return the needs of a model with a transformers configuration.

    Args:
        config: Configuration of the model.
        weight_bytes: Memory of the weights.
        item_bytes: Bytes of one number of the model's dtype.

    Raises:
        UnsupportedModelError: The cache of the model is not one of keys and values.
        ModelLoadError: A size is missing or has the wrong type.
    """
    try:
        activations = ActivationShape.of(config)
        return MemoryNeeds(
            weight_bytes=weight_bytes,
            kv_bytes_per_token=KvShape.of(config).bytes_per_token(item_bytes),
            state_bytes_per_seq=StateShape.of(config).bytes_per_seq(item_bytes),
            activation_bytes_per_token=activations.per_token * item_bytes,
            pair_bytes=activations.per_pair * item_bytes,
            position_bytes=activations.per_position * item_bytes,
            logit_bytes_per_seq=LOGIT_COPIES * 4 * config.get_text_config().vocab_size,
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ModelLoadError(
            f"config.json gives no sizes of a {config.model_type!r} model: {error}. "
            "Correct the file, or download it again."
        ) from error


def item_bytes_of(dtype: str, config: Any, tensors: Iterable[StoredTensor]) -> int:
    """Return the bytes of one number of the weights and of the cache."""
    if dtype == "auto":
        dtype = str(config.dtype).removeprefix("torch.")
    if dtype in _DTYPE_BYTES:
        return _DTYPE_BYTES[dtype]
    # transformers takes the dtype of the weights where the configuration names none.
    return next((ITEM_BYTES[t.dtype] for t in tensors if t.is_floating), 4)
