# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.llmapi.llm_args`` (§11)."""

from tensorrt_llm import llmapi
from trtllm_double import profiles

KvCacheConfig = llmapi.KvCacheConfig
if profiles.current().llm == "pytorch":
    TorchLlmArgs = llmapi.TorchLlmArgs
