# SPDX-License-Identifier: Apache-2.0

"""A fake ``tensorrt_llm`` for tests: published names, defaults and misbehaviour.

TensorRT-LLM needs an NVIDIA GPU and cannot be installed where these tests run. The fake
follows its published sources, documentation and issue threads, and computes tokens with
a small transformers model, one sequence at a time. Where a source leaves a question
open, profiles differ, so that code which relies on one answer fails in the other one.

``§`` and a number cite a section of ``docs/reference/tensorrt-llm.md``.

A path entry makes the package importable; no distribution includes it.
``TRTLLM_DOUBLE_PROFILE`` names the version family, see `profiles`.
"""
