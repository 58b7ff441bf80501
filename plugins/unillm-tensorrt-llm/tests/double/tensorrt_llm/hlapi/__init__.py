# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.hlapi``, up to 0.13 (§1.2)."""

from trtllm_double import llmapi, profiles

import tensorrt_llm

profiles.need(there=profiles.current().hlapi, module=__name__)

SamplingParams = tensorrt_llm.SamplingParams
LLM = llmapi.TrtLLM
KvCacheConfig = llmapi.KvCacheConfig
BuildConfig = llmapi.BuildConfig
QuantConfig = llmapi.QuantConfig
QuantAlgo = llmapi.QuantAlgo
