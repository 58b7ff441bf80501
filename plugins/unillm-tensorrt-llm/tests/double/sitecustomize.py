# SPDX-License-Identifier: Apache-2.0

"""A fake GPU for programs that start with this folder in their ``PYTHONPATH``.

Python imports this module by its name at start-up. An engine is bound to a kind of GPU,
and the machines of these tests have none.
"""

from unillm_tensorrt_llm import _device

_device.architecture = lambda: "sm_90"
_device.free_bytes = lambda: None
