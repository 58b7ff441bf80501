# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.lora_manager``, up to 1.3.0rc24 (§8)."""

import dataclasses


@dataclasses.dataclass(kw_only=True)
class LoraConfig:
    lora_dir: list = dataclasses.field(default_factory=list)
    max_lora_rank: int = 64
    max_loras: int = 4
    max_cpu_loras: int = 4
