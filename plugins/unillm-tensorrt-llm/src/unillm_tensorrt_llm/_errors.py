# SPDX-License-Identifier: Apache-2.0

"""TensorRT-LLM's errors in unillm's words, with what to do.

References:
    The texts are those of its sources and of issues of NVIDIA/TensorRT-LLM: #346, #102,
    #743 (memory while building), #401, #542 (memory while loading), #1838, #3031 (an
    engine for another GPU or TensorRT), #2405, #3636.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs

from unillm.backend import HEADROOM, Limits, memory_needs, out_of_memory
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    EngineOutOfMemoryError,
    ModelError,
    ModelLoadError,
    UnillmError,
    UnsafeModelError,
)

_MEMORY = re.compile(
    r"out of memory|OutOfMemory|could not be allocated"
    r"|maxTokensInPagedKvCache must be large enough",
    re.IGNORECASE,
)
_MISMATCH = re.compile(
    r"incompatible device|not compatible with this version of TensorRT"
    r"|Failed to deserialize cuda engine|deserialize\(start",
)
_TOO_FEW = re.compile(r"Only (\d+) GPUs are available, but (\d+) are required")
_NO_LAUNCH = re.compile(r"Only rank 0 can submit requests|MPI|mpi4py", re.IGNORECASE)

LAUNCH = (
    "Several GPUs are several processes: put the program's start under "
    '`if __name__ == "__main__":`, have OpenMPI installed (libopenmpi-dev, mpi4py), '
    "and under Slurm or mpirun start it with trtllm-llmapi-launch."
)


@attrs.frozen(kw_only=True)
class Wanted:
    """An engine that was to be loaded or built."""

    path: Path
    dtype: str
    num_devices: int
    limits: Limits


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    return isinstance(error, MemoryError) or bool(_MEMORY.search(str(error)))


def too_much(
    error: Exception, doing: str, wanted: Wanted, *, free: int | None
) -> EngineOutOfMemoryError | None:
    """Say of an error what would have fitted.

    Args:
        error: What came out.
        doing: As `translated` takes it.
        wanted: What was to be made.
        free: Bytes that were free on each GPU before; `None` where that is not known.

    Returns:
        `None` where memory did not run out, or where what was wanted would have fitted
        by the estimate: it knows what an engine holds, and not what building one takes.
    """
    if free is None or not is_out_of_memory(error):
        return None
    try:
        needs = memory_needs(wanted.path, dtype=wanted.dtype)
    except ModelError:
        return None
    needs = needs.sharded(wanted.num_devices)
    if needs.estimate(wanted.limits).total_bytes <= free * HEADROOM:
        return None
    return out_of_memory(
        f"TensorRT-LLM ran out of memory {doing} ({error})",
        needs=needs,
        limits=wanted.limits,
        free=free,
        device="the GPU",
    )


def translated(  # noqa: PLR0911 - a table, an answer a row
    error: Exception, doing: str, *, facts: str = ""
) -> UnillmError:
    """Return what to raise for an error of TensorRT-LLM, ``from`` it.

    Args:
        error: What came out.
        doing: Opens the message: ``"loading the engine …"``.
        facts: What is known of engine and machine, for an engine that does not fit.
    """
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, UnillmError):
        return error
    if is_out_of_memory(error):
        return EngineOutOfMemoryError(
            f"TensorRT-LLM ran out of memory {doing}: {text}. {facts} Use a smaller "
            "max_num_seqs, max_model_len, max_num_batched_tokens or "
            "gpu_memory_utilization (of what the weights leave free, 0.9 by default); "
            "`unillm plan` says what fits."
        )
    # The Python session says no more than AssertionError of an engine that does not
    # deserialize; the reason is in the log alone.
    if _MISMATCH.search(str(error)) or (isinstance(error, AssertionError) and facts):
        return ModelLoadError(
            f"TensorRT-LLM could not load the engine ({text}). An engine fits one kind "
            f"of GPU and one version of TensorRT. {facts} Build it again here: pass "
            "the checkpoint instead of the engine, or run trtllm-build."
        )
    if found := _TOO_FEW.search(str(error)):
        return ConfigError(
            f"The model is spread over {found[2]} GPUs and {found[1]} are there. Lower "
            f"tensor_parallel_size or pipeline_parallel_size. {LAUNCH}"
        )
    if _NO_LAUNCH.search(text):
        return BackendUnavailableError(
            f"TensorRT-LLM could not start its processes {doing}: {text}. {LAUNCH}",
            name="tensorrt-llm",
        )
    if "trust_remote_code=True" in str(error):
        return UnsafeModelError(
            "The model can only be loaded by code that it brings, and nothing of that "
            "was run. Read it; if you trust it, pass trust_remote_code=True. "
            f"TensorRT-LLM says, {doing}: {text}"
        )
    if isinstance(error, (ValueError, TypeError)):
        return ConfigError(f"TensorRT-LLM refused an option {doing}: {text}")
    return ModelLoadError(f"TensorRT-LLM failed {doing}: {text}")


def shut_down(llm: Any) -> None:
    """Close an ``LLM``: ``shutdown`` from about 0.17 on, ``_shutdown`` before."""
    close = getattr(llm, "shutdown", None) or getattr(llm, "_shutdown", None)
    if close is not None:
        close()
