# SPDX-License-Identifier: Apache-2.0

"""Which runner steps a model: as it is, compiled on a CPU, or recorded on CUDA."""

from __future__ import annotations

import logging
from typing import Any

from ..cache import SlotCache
from ..masks import Masks
from .eager import DecodeRunner, EagerRunner

log = logging.getLogger("unillm.transformers")


def make_runner(
    model: Any,
    cache: SlotCache,
    masks: Masks,
    *,
    enforce_eager: bool,
    compile_after: int | None = None,
) -> DecodeRunner:
    """Choose the runner of a model on its device.

    Args:
        model: The model.
        cache: Of the model.
        masks: Of the model.
        enforce_eager: Leave no choice.
        compile_after: On a CPU, eager steps before they are compiled; `None` compiles
            none.
    """
    if compile_after is not None and not enforce_eager and model.device.type == "cpu":
        # Imported here: it brings torch's compiler.
        from .cpu_compiled import CompilingRunner, refusal

        if (reason := refusal(model, masks)) is None:
            return CompilingRunner(model, cache, masks, compile_after=compile_after)
        log.warning("Decode steps are not compiled: %s.", reason)
    if not enforce_eager and cache.tensors[0].device.type == "cuda":
        from .cuda_graphs import record_graphs

        if recorded := record_graphs(model, cache, masks):
            return recorded
    return EagerRunner(model, cache, masks)
