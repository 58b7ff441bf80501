# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.executor``, one file up to 0.17."""

from trtllm_double import names, results

CompletionOutput = results.make_completion_output()
LoRARequest = names.make_dataclass("LoRARequest")
GenerationResult = results.make_request_output()
