# SPDX-License-Identifier: Apache-2.0

"""Tiny random models of the families that are served."""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from unillm.embedded.families import FAMILIES, Family

VOCAB = 256
POSITIONS = 256

_ROTARY = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,  # large enough that outputs vary
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ABSOLUTE = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ROTARY_BASE = _ROTARY | {"pad_token_id": 0}
_ALL_HEADS = {
    key: value for key, value in _ROTARY_BASE.items() if key != "num_key_value_heads"
}
_WINDOW = _ROTARY_BASE | {"sliding_window": 24}
_BY_LAYER = _WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}
_LATENT = _ALL_HEADS | {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
_ROUTED = _EXPERTS | {
    "num_hidden_layers": 3,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_HYBRID = _ROTARY_BASE | {"num_hidden_layers": 4, "initializer_range": 0.2}
_MAMBA = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "state_size": 8,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_SSM = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}
_CONVOLUTIONS = {
    "layer_types": ["conv", "full_attention"] * 2,
    "conv_L_cache": 3,
}
_DELTA_RULE = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
_SHARED_BLOCKS = {"layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8}
CONFIGS = {
    "apertus": _ROTARY_BASE,
    "arcee": _ROTARY_BASE,
    "bamba": _HYBRID | _SSM | {"attn_layer_indices": [1, 3]},
    "bloom": _ABSOLUTE | {"hidden_size": 64, "seq_length": POSITIONS},
    "codegen": _ABSOLUTE | {"rotary_dim": 8},
    "cohere": _ROTARY_BASE,
    "cohere2": _BY_LAYER,
    "deepseek_v2": _LATENT | _ROUTED,
    "deepseek_v3": _LATENT | _ROUTED,
    "ernie4_5": _ROTARY_BASE,
    "exaone4": _BY_LAYER,
    "falcon": _ALL_HEADS | {"alibi": False, "multi_query": True},
    "falcon, ALiBi": _ALL_HEADS | {"alibi": True, "multi_query": False},
    "falcon, groups": _ALL_HEADS
    | {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_h1": _HYBRID | _SSM | {"mamba_d_ssm": 128},
    "falcon_mamba": _MAMBA,
    "gemma": _ROTARY_BASE | {"head_dim": 16},
    "gemma2": _BY_LAYER
    | {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 1.0,  # low enough to move the tokens
        "attn_implementation": "eager",  # the only one that honours it
    },
    "gemma3_text": _BY_LAYER | {"head_dim": 16, "query_pre_attn_scalar": 16},
    "glm": _ROTARY_BASE | {"head_dim": 16},
    "glm4": _ROTARY_BASE | {"head_dim": 16},
    "glm4_moe": _ROTARY_BASE
    | _EXPERTS
    | {"head_dim": 16, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "glm4_moe_lite": _LATENT | _ROUTED,
    "gpt2": _ABSOLUTE,
    "gpt_bigcode": _ABSOLUTE,
    "gpt_neo": {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 24,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": _ALL_HEADS,
    "gpt_oss": _BY_LAYER | _EXPERTS | {"head_dim": 16},
    "gptj": _ABSOLUTE | {"rotary_dim": 8},
    "granite": _ROTARY_BASE | {"logits_scaling": 2.0},
    "granitemoe": _ROTARY_BASE | _EXPERTS,
    "granitemoehybrid": _HYBRID
    | _EXPERTS
    | _SSM
    | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 64},
    "helium": _ROTARY_BASE | {"head_dim": 16},
    "hunyuan_v1_dense": _ROTARY_BASE | {"head_dim": 16},
    "jamba": _HYBRID
    | _EXPERTS
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
    },
    "lfm2": _HYBRID | _CONVOLUTIONS,
    "lfm2_moe": _HYBRID | _EXPERTS | _CONVOLUTIONS | {"num_dense_layers": 1},
    "llama": _ROTARY,
    "mamba": _MAMBA,
    "mamba2": _MAMBA
    | {"num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 16},
    "minicpm3": _LATENT,
    "ministral": _BY_LAYER | {"rope_theta": 1e4, "head_dim": 16},
    "mistral": _ROTARY_BASE | {"sliding_window": None},
    "mistral, window": _WINDOW,
    "mixtral": _ROTARY_BASE | _EXPERTS,
    "mixtral, window": _WINDOW | _EXPERTS,
    "mpt": {
        "vocab_size": VOCAB,
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": POSITIONS,
        "expansion_ratio": 2,
        "initializer_range": 0.2,
        "eos_token_id": 2,
    },
    "nemotron": _ROTARY_BASE,
    "nemotron_h": _HYBRID
    | {
        "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 8,
        "chunk_size": 16,
        "head_dim": 16,
    },
    "olmo": _ROTARY_BASE,
    "olmo2": _ROTARY_BASE,
    "olmo3": _BY_LAYER,
    "olmo_hybrid": _HYBRID | _DELTA_RULE | {"linear_num_key_heads": 4},
    "olmoe": _ROTARY_BASE | _EXPERTS,
    "opt": _ALL_HEADS | {"word_embed_proj_dim": 64, "ffn_dim": 128, "init_std": 0.2},
    "persimmon": _ALL_HEADS,
    "phi": _ROTARY_BASE,
    "phi3": _ROTARY_BASE,
    "phi3, longrope": _ROTARY_BASE
    | {
        "max_position_embeddings": 4 * POSITIONS,
        "original_max_position_embeddings": POSITIONS,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0 + number / 4 for number in range(8)],
            "long_factor": [4.0 + number for number in range(8)],
        },
    },
    "phi3, window": _WINDOW,
    "qwen2": _ROTARY | {"tie_word_embeddings": True},
    "qwen2, windows": _BY_LAYER | {"use_sliding_window": True},
    "qwen2_moe": _ROTARY_BASE | _EXPERTS | {"shared_expert_intermediate_size": 64},
    "qwen2_moe, windows": _BY_LAYER
    | _EXPERTS
    | {"shared_expert_intermediate_size": 64, "use_sliding_window": True},
    "qwen3": _ROTARY | {"head_dim": 32},
    "qwen3, windows": _BY_LAYER | {"head_dim": 32, "use_sliding_window": True},
    "qwen3_5_moe_text": _HYBRID
    | _EXPERTS
    | _DELTA_RULE
    | {"shared_expert_intermediate_size": 64},
    "qwen3_5_text": _HYBRID | _DELTA_RULE,
    "qwen3_moe": _ROTARY_BASE | _EXPERTS | {"head_dim": 16},
    "qwen3_moe, window": _WINDOW
    | _EXPERTS
    | {"head_dim": 16, "use_sliding_window": True},
    "qwen3_next": _HYBRID
    | _EXPERTS
    | _DELTA_RULE
    | {"shared_expert_intermediate_size": 64},
    "seed_oss": _ROTARY_BASE | {"head_dim": 16},
    "smollm3": _ROTARY_BASE | {"no_rope_layers": [1, 0]},
    "smollm3, windows": _BY_LAYER
    | {"no_rope_layers": [1, 0], "use_sliding_window": True},
    "stablelm": _ROTARY_BASE,
    "starcoder2": _ROTARY_BASE,
    "starcoder2, window": _WINDOW,
    "youtu": _LATENT,
    "zamba": _HYBRID | _SHARED_BLOCKS | {"mamba_dt_rank": 8, "n_mamba_heads": 2},
    "zamba2": _HYBRID
    | _SHARED_BLOCKS
    | {
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "mamba_headdim": 16,
        "chunk_size": 16,
        "num_mem_blocks": 1,
        "use_mem_rope": True,
    },
}
VARIANTS = tuple(CONFIGS)
"""Families, some of them in several shapes: ``model_type, shape``."""
CORE = ("llama", "qwen2", "qwen3", "gpt2")
"""Families that are tested longest; the others share the code with them."""


def model_type_of(variant: str) -> str:
    return variant.partition(",")[0]


def family_of(variant: str) -> Family:
    return FAMILIES[model_type_of(variant)]


RECURRENT = tuple(variant for variant in VARIANTS if family_of(variant).recurrent)


def slots_for(variant: str, num_slots: int) -> int:
    """Return *num_slots*, or 1 for a family that is served one request at a time."""
    return 1 if family_of(variant).one_at_a_time else num_slots


def make_model(variant: str):
    """Return a random model, the same at each call."""
    config = CONFIG_MAPPING[model_type_of(variant)](**CONFIGS[variant])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()
