# SPDX-License-Identifier: Apache-2.0

"""``tensorrt_llm._torch.pyexecutor``."""

from trtllm_double.parts import PARTS
from trtllm_double.profiles import current

if current().drawing_module == "sampling_utils":
    __path__ += [str(PARTS / "sampling_utils")]
