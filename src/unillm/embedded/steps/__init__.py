# SPDX-License-Identifier: Apache-2.0

"""Ways to compute a step: eagerly, compiled on a CPU, or from recorded CUDA graphs."""

from __future__ import annotations

import logging
from typing import Any, Literal

from ..cache import SlotCache
from ..masks import Masks
from .background import BackgroundRunner, can_compile
from .compilable import refusal
from .eager import EagerRunner
from .runner import StepRunner

log = logging.getLogger("unillm.transformers")

CompileAfter = int | None | Literal["background"]
"""On a CPU, decode steps before they are compiled while all streams wait; `None`
compiles none. In the background a process compiles them beside a long run."""


def make_runner(
    model: Any,
    cache: SlotCache,
    masks: Masks,
    *,
    enforce_eager: bool,
    compile_after: CompileAfter = "background",
) -> StepRunner:
    """Return the fastest runner that serves a model on its device.

    With *enforce_eager* that is an `EagerRunner` in any case, as for recurrent models
    and those that are served one request at a time.
    """
    family = masks.family
    if enforce_eager or family.recurrent or family.one_at_a_time:
        return EagerRunner(model, cache, masks)
    if model.device.type == "cpu" and compile_after is not None:
        reason = refusal(model)
        if compile_after == "background":
            if reason is None and can_compile():
                return BackgroundRunner(model, cache, masks)
        elif reason is None:
            # Imported here, because it imports torch's compiler.
            from .cpu_compiled import CompilingRunner

            return CompilingRunner(model, cache, masks, compile_after=compile_after)
        else:
            log.warning("Decode steps are not compiled: %s.", reason)
    if model.device.type == "cuda":
        from .cuda_graphs import record_graphs

        if recorded := record_graphs(model, cache, masks):
            return recorded
    return EagerRunner(model, cache, masks)
