# SPDX-License-Identifier: Apache-2.0

"""The top level of the current profile (§1.2)."""

from trtllm_double import llmapi as _llmapi
from trtllm_double.profiles import current as _current

_profile = _current()
__version__ = _profile.version

SamplingParams = _llmapi.make_sampling_params()
if _profile.llm == "tensorrt":
    LLM = _llmapi.TrtLLM
elif _profile.llm == "pytorch":
    LLM = _llmapi.TorchLLM
if _profile.runtime and not _profile.hlapi:
    BuildConfig = _llmapi.BuildConfig
