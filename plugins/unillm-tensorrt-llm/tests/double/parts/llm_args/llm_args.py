# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.llmapi.llm_args``, after 0.17 (§11)."""

from tensorrt_llm import llmapi
from trtllm_double import configs

KvCacheConfig = llmapi.KvCacheConfig
for _name, _made in configs.make_llm_args().items():
    globals()[_name] = getattr(llmapi, _name, _made)
