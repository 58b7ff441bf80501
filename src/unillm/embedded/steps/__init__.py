# SPDX-License-Identifier: Apache-2.0

"""Ways to compute a step: eagerly, compiled on a CPU, or from recorded CUDA graphs."""

from __future__ import annotations

import logging
from typing import Any

from ..cache import SlotCache
from ..masks import Masks
from .eager import EagerRunner
from .runner import StepRunner

log = logging.getLogger("unillm.transformers")


def make_runner(
    model: Any,
    cache: SlotCache,
    masks: Masks,
    *,
    enforce_eager: bool,
    compile_after: int | None = None,
) -> StepRunner:
    """Return the fastest runner that serves a model on its device.

    With *enforce_eager* that is an `EagerRunner` in any case, as for recurrent models
    and those that are served one request at a time. On a CPU steps are compiled after
    *compile_after* of them, if at all.
    """
    family = masks.family
    if enforce_eager or family.recurrent or family.one_at_a_time:
        return EagerRunner(model, cache, masks)
    if compile_after is not None and model.device.type == "cpu":
        # Imported here, because it imports torch's compiler.
        from .cpu_compiled import CompilingRunner, refusal

        if (reason := refusal(model)) is None:
            return CompilingRunner(model, cache, masks, compile_after=compile_after)
        log.warning("Decode steps are not compiled: %s.", reason)
    if model.device.type == "cuda":
        from .cuda_graphs import record_graphs

        if recorded := record_graphs(model, cache, masks):
            return recorded
    return EagerRunner(model, cache, masks)
