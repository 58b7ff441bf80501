# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._torch.peft.lora`` (§8)."""

from trtllm_double.parts import PARTS
from trtllm_double.profiles import current

if not (current().runtime or "lora_manager" in current().modules):
    __path__ += [str(PARTS / "lora_config")]
