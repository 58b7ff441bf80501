# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.lora_manager``, up to 1.3.0rc24 (§8)."""

from trtllm_double import configs

LoraConfig = configs.LoraConfig
