# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._torch``: an experimental ``LLM`` from 0.17 to 0.21 (§1.2)."""

from trtllm_double import llm, profiles

if profiles.current().llm == "tensorrt":
    LLM = llm.make_llm("pytorch")
