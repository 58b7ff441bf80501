# SPDX-License-Identifier: Apache-2.0

"""``vllm.exceptions``: the classes of unillm under the names of vLLM's."""

from __future__ import annotations

from ..errors import EngineError, RequestError, RequestRefusedError, UnillmError

__all__ = ["VLLMClientError", "VLLMError", "VLLMServerError", "VLLMValidationError"]

VLLMError = UnillmError
VLLMClientError = RequestError
VLLMServerError = EngineError
VLLMValidationError = RequestRefusedError
