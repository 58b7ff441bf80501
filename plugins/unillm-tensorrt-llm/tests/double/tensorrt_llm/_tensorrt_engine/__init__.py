# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._tensorrt_engine``, 1.0 to 1.3.0rc20 (§1.2)."""

from trtllm_double import llmapi, profiles

profiles.need(there=profiles.current().tensorrt_engine, module=__name__)

LLM = llmapi.TrtLLM
