# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm.runtime``: the runners are gone after 1.3.0rc20 (§1.1)."""

from trtllm_double import runtime as _runtime
from trtllm_double.profiles import current as _current

PYTHON_BINDINGS = True
if _current().runtime:
    ModelRunner = _runtime.make_runner("ModelRunner")
    ModelRunnerCpp = _runtime.make_runner("ModelRunnerCpp")
