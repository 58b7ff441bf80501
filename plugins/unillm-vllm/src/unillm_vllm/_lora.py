# SPDX-License-Identifier: Apache-2.0

"""An adapter without effect, for requests without one, on a CPU.

vLLM's CPU kernels read the slot of a row without an adapter as -1, which is the last
slot: beside requests with adapters, such a row is computed with another request's (seen
with 0.32). So on a CPU a row without an adapter gets this one, in its own slot.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from unillm.backend import LoRARequest

NOTHING_ID = 2**31 - 1
"""Its `lora_int_id`."""


class NoAdapter:
    """The files of an adapter of no layer, until `close`."""

    def __init__(self) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        self._folder = Path(tempfile.mkdtemp(prefix="unillm-vllm-lora-"))
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": []}
        (self._folder / "adapter_config.json").write_text(
            json.dumps(config), encoding="utf-8"
        )
        # vLLM needs weights; these belong to no layer of any model. vLLM checks whether
        # layers can have adapters, except those of this name.
        layer, zero = (
            "base_model.model.nothing.base_layer",
            np.zeros((1, 1), np.float32),
        )
        weights = {f"{layer}.lora_{side}.weight": zero for side in "AB"}
        save_file(weights, self._folder / "adapter_model.safetensors")
        self.request = LoRARequest("nothing", NOTHING_ID, self._folder)

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
