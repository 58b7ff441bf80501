# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.llmapi``, from 0.15 on (§1.2)."""

import tensorrt_llm
from trtllm_double import configs, guided, profiles, results
from trtllm_double.parts import PARTS

LLM = tensorrt_llm.LLM
SamplingParams = tensorrt_llm.SamplingParams
CompletionOutput = results.make_completion_output()
RequestOutput = results.make_request_output()
KvCacheConfig = configs.make_kv_cache_config()
QuantConfig = configs.make_quant_config()
QuantAlgo = configs.QuantAlgo
globals().update(configs.make_decoding_configs())
if profiles.current().runtime:
    BuildConfig = tensorrt_llm.BuildConfig
if profiles.current().llm == "pytorch":
    globals().update(configs.make_llm_args())
if "sampling_params" in profiles.current().modules:
    GuidedDecodingParams = guided.GuidedDecodingParams

_arguments = "llm_utils" if profiles.current().facts else "llm_args"
__path__ += [str(PARTS / _arguments)]
