# SPDX-License-Identifier: Apache-2.0

"""``llm_utils`` of the LLM API, which holds ``LlmArgs`` up to 0.17."""

from trtllm_double import configs

globals().update(configs.make_llm_args())
