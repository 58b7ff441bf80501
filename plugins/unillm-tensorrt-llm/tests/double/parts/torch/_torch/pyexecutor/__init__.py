# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._torch.pyexecutor``."""
