# SPDX-License-Identifier: Apache-2.0

"""A double of ``tensorrt_llm`` for tests: published names, defaults and misbehaviour.

TensorRT-LLM needs an NVIDIA GPU and cannot be installed where these tests run. This
package says what its published sources, documentation and issue threads say of it, and
computes tokens with a small transformers model, one sequence at a time. Where a source
leaves something open, profiles differ in it, so that code which relies on one answer
fails in the other profile.

``§`` and a number cite the section of ``docs/reference/tensorrt-llm.md`` that says so.

Never shipped: it lives beside the tests, and a path entry makes it importable.
``TRTLLM_DOUBLE_PROFILE`` names the version family, see `profiles`.
"""
