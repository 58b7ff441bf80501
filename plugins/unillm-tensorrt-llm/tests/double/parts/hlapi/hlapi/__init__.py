# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.hlapi``, up to 0.14 (§1.2)."""

import tensorrt_llm
from trtllm_double import configs, llm
from trtllm_double.parts import PARTS

SamplingParams = tensorrt_llm.SamplingParams
LLM = getattr(tensorrt_llm, "LLM", None) or llm.make_llm("tensorrt")
KvCacheConfig = configs.make_kv_cache_config()
BuildConfig = getattr(tensorrt_llm, "BuildConfig", None) or configs.make_build_config()
QuantConfig = configs.make_quant_config()
QuantAlgo = configs.QuantAlgo

__path__ += [str(PARTS / "llm_utils")]
