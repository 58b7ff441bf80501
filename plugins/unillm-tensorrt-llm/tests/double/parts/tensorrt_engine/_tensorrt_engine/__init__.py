# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._tensorrt_engine``, 1.0 to 1.3.0rc20 (§1.2)."""

from trtllm_double import llm

LLM = llm.make_llm("tensorrt")
