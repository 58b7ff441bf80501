# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.executor``, a package after 0.17."""
