# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.executor.request`` (§8)."""

from trtllm_double import names

LoRARequest = names.make_dataclass("LoRARequest")
