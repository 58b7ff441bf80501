# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.executor.utils`` (§2.5)."""

from trtllm_double import results

RequestError = results.RequestError
