# SPDX-License-Identifier: Apache-2.0

"""Write the names and defaults of known families, from transformers' own classes.

Usage::

    python scripts/write_known_configs.py

``tests/model/test_known_configs.py`` compares the file with the installed transformers,
and every size that is computed from it with transformers' own configuration.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from transformers import CONFIG_MAPPING

from unillm.embedded.families import FAMILIES
from unillm.model.known_configs import DATA, RULES

READ = """
    attention_head_dim head_dim hidden_size intermediate_size num_attention_heads
    num_hidden_layers num_key_value_heads vocab_size layer_types
    activation activation_function hidden_act hidden_activation
    ffn_dim ffn_hidden_size n_inner attn_logit_softcapping
    multi_query new_decoder_architecture
    conv_L_cache linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads
    linear_num_value_heads linear_value_head_dim
    kv_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim
    moe_intermediate_size n_routed_experts num_experts num_experts_per_tok
    num_experts_per_token num_local_experts
    max_position_embeddings max_seq_len max_sequence_length n_ctx n_positions seq_length
    original_max_position_embeddings rope_parameters sliding_window use_sliding_window
""".split()
"""Attributes that the formulas of `unillm.model` read."""

ASKED = frozenset(
    {
        # Their layers or sizes follow from further fields.
        *("bamba", "falcon", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba"),
        *("mamba", "mamba2", "nemotron_h", "zamba", "zamba2"),
    }
)
"""Families that transformers itself is asked about."""


def families() -> dict[str, Any]:
    """Return what the file holds."""
    return {name: _family(name) for name in sorted(FAMILIES) if name not in ASKED}


def _family(name: str) -> dict[str, Any]:
    known = CONFIG_MAPPING[name]
    names = {key: own for key, own in known.attribute_map.items() if key in READ}
    read = {*READ, *names.values()}
    defaults = {
        names.get(field.name, field.name): field.default
        for field in dataclasses.fields(known)
        if field.name in read
    }
    made = known()
    computed = {
        field: next(rule for rule, of in RULES.items() if of(made) == value)
        for field in ("head_dim", "qk_head_dim", "v_head_dim")
        if defaults.get(field) is None and (value := getattr(made, field, None))
    }
    return {"names": names, "defaults": defaults, "computed": computed}


if __name__ == "__main__":
    pairs = families().items()
    lines = [f"{json.dumps(name)}: {json.dumps(family)}" for name, family in pairs]
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
