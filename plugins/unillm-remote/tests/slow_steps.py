# SPDX-License-Identifier: Apache-2.0

"""A logits processor that gives vLLM's steps the length of those of a larger model.

Steps of the bundled model take a millisecond, in which no request reaches a server, so
the longest answer was over before others had arrived. R3, R8 and R9 need it to go on
meanwhile. Runs inside vLLM, which loads it by its name.
"""

from __future__ import annotations

import time

from vllm.v1.sample.logits_processor import LogitsProcessor

STEP_S = 0.01


class SlowSteps(LogitsProcessor):
    """Changes no logit, and takes its time."""

    def __init__(self, vllm_config, device, is_pin_memory):
        pass

    def is_argmax_invariant(self):
        return False  # else greedy steps leave it out

    def update_state(self, batch_update):
        pass

    def apply(self, logits):
        time.sleep(STEP_S)
        return logits
