# SPDX-License-Identifier: Apache-2.0

"""An adapter that changes nothing, for requests that name none, on a CPU.

vLLM's CPU kernels read the slot of a row without an adapter as -1, which is the last
slot: beside requests with adapters, such a row is computed with somebody else's (seen
with 0.32). So there a row without one names this one, which has a slot of its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from unillm.backend import LoRARequest

NOTHING_ID = 2**31 - 1
"""What vLLM knows it by."""


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
        # vLLM wants weights; these belong to no layer of any model. It asks whether
        # layers can have adapters, but not those called so.
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
