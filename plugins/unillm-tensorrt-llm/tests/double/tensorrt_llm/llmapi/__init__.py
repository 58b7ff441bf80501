# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.llmapi``, from 0.14 on (§1.2)."""

from trtllm_double import llmapi, profiles

import tensorrt_llm

_profile = profiles.current()
profiles.need(there=not _profile.hlapi, module=__name__)

SamplingParams = tensorrt_llm.SamplingParams
KvCacheConfig = llmapi.KvCacheConfig
NGramDecodingConfig = llmapi.NGramDecodingConfig
DraftTargetDecodingConfig = llmapi.DraftTargetDecodingConfig
Eagle3DecodingConfig = llmapi.Eagle3DecodingConfig
QuantConfig = llmapi.QuantConfig
QuantAlgo = llmapi.QuantAlgo
if _profile.llm:
    LLM = tensorrt_llm.LLM
if _profile.runtime:
    BuildConfig = llmapi.BuildConfig
