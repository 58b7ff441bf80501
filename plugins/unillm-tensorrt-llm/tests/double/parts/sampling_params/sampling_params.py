# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.sampling_params``, a module of its own from 0.16 on (§1.2)."""

import tensorrt_llm
from trtllm_double import guided

SamplingParams = tensorrt_llm.SamplingParams
GuidedDecodingParams = guided.GuidedDecodingParams
