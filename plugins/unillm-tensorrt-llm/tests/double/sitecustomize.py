# SPDX-License-Identifier: Apache-2.0

"""A GPU for programs that are started with the double in their ``PYTHONPATH``.

Python imports this by its name when it starts. An engine is bound to a kind of GPU, and
the machines that these tests run on have none.
"""

from unillm_tensorrt_llm import _device

_device.architecture = lambda: "sm_90"
_device.free_bytes = lambda: None
