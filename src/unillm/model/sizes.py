# SPDX-License-Identifier: Apache-2.0

"""Sizes that follow from a model's configuration: cache, states and activations.

Sizes count numbers, not bytes, wherever the dtype is not known yet. The formulas were
measured on the embedded backend, operation by operation; other engines need about as
much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ..errors import UnsupportedModelError

ALIGNMENT = 64
"""Positions of one block: rows of the cache, and the part of it that attention reads,
are whole blocks. Masks that are a multiple of it wide suit the CUDA kernels too."""

LOGIT_COPIES = 12
"""Numbers of four bytes for each logit of a row while it is sampled: the filters sort,
and sorting makes indices of eight bytes."""

STEPWISE_ATTENTION = {
    "bloom",
    "codegen",
    "falcon",
    "gpt_neo",
    "gpt_oss",
    "gptj",
    "mpt",
}
"""Families whose attention holds all scores; soft-capping does so in any family."""

_ATTENDING = {
    "chunked_attention",
    "full_attention",
    "hybrid",
    "hybrid_sliding",
    "sliding_attention",
}
_RECURRING = {"conv", "hybrid", "hybrid_sliding", "linear_attention"}

_STEPWISE_GELU = {"gelu_accurate", "gelu_fast", "gelu_new", "gelu_python"}
"""Activations that transformers computes in several operations."""

_DELTA_CHUNK = 64
"""Tokens for which transformers computes the delta rule at once."""


def round_up(positions: int) -> int:
    """Return *positions*, rounded up to whole blocks of `ALIGNMENT`."""
    return -(-positions // ALIGNMENT) * ALIGNMENT


def first_of(config: Any, *names: str) -> int:
    """Return the first of *names* that a configuration has; 0 if it has none."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if value and isinstance(value, int)), 0)


# ------------------------------------------------------------------- cache and states


@attrs.frozen(kw_only=True)
class KvShape:
    """The cache of one position of one row."""

    layers: int
    kv_heads: int
    head_dim: int
    """Numbers of one key."""
    value_dim: int
    """Numbers of one value."""

    @classmethod
    def of(cls, config: Any) -> KvShape:
        """Return the shape for a transformers configuration.

        Raises:
            UnsupportedModelError: The model is not one of layers of attention heads.
        """
        config = config.get_text_config(decoder=True)
        kinds = _kinds(config)
        if kinds and not _ATTENDING & set(kinds):
            return cls(layers=0, kv_heads=0, head_dim=0, value_dim=0)
        try:
            layers = config.num_hidden_layers
            if kinds:
                layers = sum(kind in _ATTENDING for kind in kinds)
            if rank := first_of(config, "kv_lora_rank"):
                # Latent attention caches one compressed vector for all heads, and the
                # rotated part of the keys.
                rotated = config.qk_rope_head_dim
                return cls(layers=layers, kv_heads=1, head_dim=rank, value_dim=rotated)
            dim = first_of(config, "attention_head_dim", "head_dim")
            dim = dim or config.hidden_size // config.num_attention_heads
            heads = _kv_heads(config)
            return cls(layers=layers, kv_heads=heads, head_dim=dim, value_dim=dim)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{config.model_type!r} has no key-value cache of layers, heads and "
                f"positions: {error}."
            ) from error

    def bytes_per_token(self, item_bytes: int) -> int:
        """Return the bytes of all layers, with numbers of *item_bytes* each."""
        numbers = self.kv_heads * (self.head_dim + self.value_dim)
        return self.layers * numbers * item_bytes


@attrs.frozen(kw_only=True)
class StateShape:
    """The states of the recurrent layers of one row, whatever its length."""

    layers: int
    convolution: int
    """Numbers of one layer, in the model's dtype: the last inputs."""
    recurrence: int
    """Numbers of one layer, always of four bytes: the memory of all inputs."""

    @classmethod
    def of(cls, config: Any) -> StateShape:
        """Return the shape for a transformers configuration.

        References:
            The buffers that transformers 5.19 makes for such layers, by family.
        """
        config = config.get_text_config(decoder=True)
        layers = sum(kind in _RECURRING for kind in _kinds(config))
        if not layers:
            return cls(layers=0, convolution=0, recurrence=0)
        if width := getattr(config, "conv_L_cache", None):  # short convolutions alone
            convolution, recurrence = config.hidden_size * width, 0
        elif getattr(config, "linear_num_value_heads", None):
            convolution, recurrence = _delta_rule(config)
        else:
            sizes = _StateSpace.of(config)
            convolution = sizes.convolution
            recurrence = sizes.inner * sizes.state
        return cls(layers=layers, convolution=convolution, recurrence=recurrence)

    def bytes_per_seq(self, item_bytes: int) -> int:
        """Return the bytes of all layers, with numbers of *item_bytes* each."""
        return self.layers * (self.convolution * item_bytes + self.recurrence * 4)


def _delta_rule(config: Any) -> tuple[int, int]:
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    convolution = (2 * keys + values) * config.linear_conv_kernel_dim
    return convolution, values * config.linear_key_head_dim


@attrs.frozen(kw_only=True)
class _StateSpace:
    """Sizes of Mamba's layers: the first kind of Mamba has no groups."""

    inner: int
    heads: int
    groups: int
    state: int
    kernel: int

    @classmethod
    def of(cls, config: Any) -> _StateSpace:
        names = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
        heads = first_of(config, *names)
        head_dim = first_of(config, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
        expand = first_of(config, "mamba_expand", "expand")
        return cls(
            inner=heads * head_dim or config.hidden_size * expand,
            heads=heads,
            groups=first_of(config, "mamba_n_groups", "mamba_ngroups", "n_groups"),
            state=first_of(config, "mamba_d_state", "ssm_state_size", "state_size"),
            kernel=first_of(config, "mamba_d_conv", "conv_kernel"),
        )

    @property
    def convolution(self) -> int:
        return (self.inner + 2 * self.groups * self.state) * self.kernel


def _kinds(config: Any) -> Sequence[str]:
    """Return ``layer_types``; empty where all layers are alike and attend."""
    return getattr(config, "layer_types", None) or ()


def _kv_heads(config: Any) -> int:
    heads: int = config.num_attention_heads
    if config.model_type in ("falcon", "gpt_bigcode"):
        # Falcon of the new architecture repeats its heads before it caches them.
        repeated = getattr(config, "new_decoder_architecture", False)
        return 1 if config.multi_query and not repeated else heads
    return getattr(config, "num_key_value_heads", None) or heads


# ------------------------------------------------------------------------ activations


@attrs.frozen(kw_only=True)
class ActivationShape:
    """The activations at the peak of a step, without the logits."""

    per_token: int
    """Numbers of one token, in the part of a layer that needs most."""
    per_pair: int
    """Numbers of one token and one position that it may see: masks and scores."""
    per_position: int
    """Numbers that attention makes of the cache of one position of one row."""

    @classmethod
    def of(cls, config: Any) -> ActivationShape:
        """Return the shape for a transformers configuration.

        References:
            Each term counts the allocations of the embedded backend on a CPU, eagerly
            and without kernels of other packages, as torch's profiler sees them:
            ``tests/embedded/test_activations.py`` holds it to within a quarter.
        """
        config = config.get_text_config(decoder=True)
        parts = [_in_mlp(config)]
        if KvShape.of(config).layers:
            parts.append(_in_attention(config))
        if StateShape.of(config).layers:
            parts.append(_in_recurrence(config))
        return cls(
            per_token=max(parts),
            per_pair=_per_pair(config),
            per_position=_per_position(config),
        )


def _in_mlp(config: Any) -> int:
    hidden: int = config.hidden_size
    # The residual, its norm, the output, and the rotary embeddings given to each layer.
    around = 4 * hidden + 2 * (first_of(config, "head_dim") or hidden // 8)
    names = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    width = first_of(config, *names) or 4 * hidden
    if experts := first_of(config, "num_experts_per_tok"):
        # The tokens of each expert are gathered, and gate and up are one product.
        width = first_of(config, "moe_intermediate_size") or width
        return around + experts * (hidden + 4 * width)
    names = ("hidden_act", "hidden_activation", "activation_function", "activation")
    acts = {getattr(config, name, None) for name in names}
    if config.model_type == "bloom":
        return around + 7 * width
    # Gate, up and their product; or as many steps of the activation.
    return around + (5 if acts & _STEPWISE_GELU else 3) * width


def _in_attention(config: Any) -> int:
    """Count residual and norm, queries, keys and values, and the rotated queries."""
    shape = KvShape.of(config)
    hidden: int = config.hidden_size
    dim = first_of(config, "qk_head_dim") or shape.head_dim
    queries = int(config.num_attention_heads) * dim
    keys_and_values = shape.kv_heads * (shape.head_dim + shape.value_dim)
    return 2 * hidden + 5 * queries + keys_and_values + 2 * dim


def _in_recurrence(config: Any) -> int:
    hidden: int = config.hidden_size
    if getattr(config, "conv_L_cache", None):
        return 8 * hidden  # three parts, their products, the residual and its norm
    if heads := first_of(config, "linear_num_value_heads"):
        values = heads * int(config.linear_value_head_dim)
        keys = heads * int(config.linear_key_head_dim)  # one for each head of values
        return 3 * hidden + 8 * values + 9 * keys + 2 * _DELTA_CHUNK * heads
    sizes = _StateSpace.of(config)
    if not sizes.groups:
        return (3 * sizes.state + 11) * sizes.inner
    chunk = first_of(config, "mamba_chunk_size", "chunk_size")
    return 11 * sizes.inner + sizes.heads * (6 * sizes.state + 3 * chunk)


def _per_pair(config: Any) -> int:
    if not KvShape.of(config).layers:
        return 0
    masks = len({"sliding_attention", "full_attention"} & set(_kinds(config))) or 1
    heads: int = config.num_attention_heads
    if getattr(config, "attn_logit_softcapping", None):
        return masks + 3 * heads
    if config.model_type in STEPWISE_ATTENTION:
        return masks + 4 * heads
    return masks


def _per_position(config: Any) -> int:
    """Count the keys and values that latent attention makes of its cache."""
    if not first_of(config, "kv_lora_rank"):
        return 0
    heads = int(config.num_attention_heads)
    # The product, and the keys and values that are cut from it.
    nope, values = int(config.qk_nope_head_dim), int(config.v_head_dim)
    return heads * (2 * (nope + values) + int(config.qk_rope_head_dim))
