# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._torch.peft`` (§8)."""
