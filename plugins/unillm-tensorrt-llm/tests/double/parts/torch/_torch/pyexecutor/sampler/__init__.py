# SPDX-License-Identifier: Apache-2.0

"""The sampler of PyTorch: one file, and a package in mid-2026 (§11)."""

from trtllm_double import profiles, samplers
from trtllm_double.parts import PARTS

TorchSampler = samplers.TorchSampler
if profiles.current().cpp_sampler:
    TRTLLMSampler = samplers.CppSampler
_modules = profiles.current().sampler_modules
if _modules is None:
    del __path__  # a file has no modules
else:
    __path__ = [str(PARTS / name) for name in _modules]
