# SPDX-License-Identifier: Apache-2.0

"""TensorRT-LLM's errors as unillm's, with a remedy.

References:
    The texts are those of its sources and of issues of NVIDIA/TensorRT-LLM: #346, #102,
    #743 (memory while building), #401, #542 (memory while loading), #1838, #3031 (an
    engine for another GPU or TensorRT), #2405, #3636.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
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
    """The requested limits of an engine that failed to load or build."""

    path: Path
    dtype: str
    num_devices: int
    limits: Limits


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports that memory ran out."""
    return isinstance(error, MemoryError) or bool(_MEMORY.search(str(error)))


def too_much(
    error: Exception, doing: str, wanted: Wanted, *, free: int | None
) -> EngineOutOfMemoryError | None:
    """Return an error with limits that fit, if *error* reports a lack of memory.

    Args:
        error: Raised by TensorRT-LLM.
        doing: See `translated`.
        wanted: The requested engine.
        free: Bytes that were free on each GPU before; `None` if unknown.

    Returns:
        `None` if memory did not run out, or if the engine fits by the estimate, which
        covers a loaded engine and not its build.
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


def translated(  # noqa: PLR0911 - a table, one return a row
    error: Exception, doing: str, *, facts: str = ""
) -> UnillmError:
    """Return unillm's error for an error of TensorRT-LLM, to raise ``from`` it.

    Args:
        error: Raised by TensorRT-LLM.
        doing: Part of the message: ``"while it built an engine"``.
        facts: Sentences about the engine and the machine, or nothing.
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
    # If an engine does not deserialize, the Python session raises a bare AssertionError
    # and logs the reason.
    if _MISMATCH.search(str(error)) or (isinstance(error, AssertionError) and facts):
        return ModelLoadError(
            f"TensorRT-LLM could not load the engine ({text}). An engine fits one kind "
            f"of GPU and one version of TensorRT. {facts} Build it again here: pass "
            "the checkpoint instead of the engine, or run trtllm-build."
        )
    if found := _TOO_FEW.search(str(error)):
        return ConfigError(
            f"The model needs {found[2]} GPUs and {found[1]} are available. Lower "
            f"tensor_parallel_size or pipeline_parallel_size. {LAUNCH}"
        )
    if _NO_LAUNCH.search(text):
        return BackendUnavailableError(
            f"TensorRT-LLM could not start its processes {doing}: {text}. {LAUNCH}",
            name="tensorrt-llm",
        )
    if "trust_remote_code=True" in str(error):
        return UnsafeModelError(
            "The model needs code of its checkpoint, and none of it has run. Read it; "
            "if you trust it, pass trust_remote_code=True. "
            f"TensorRT-LLM reports {doing}: {text}"
        )
    if isinstance(error, (ValueError, TypeError)):
        return ConfigError(f"TensorRT-LLM refused an option {doing}: {text}")
    return ModelLoadError(f"TensorRT-LLM failed {doing}: {text}")


@contextlib.contextmanager
def translating(doing: str, *, facts: str = "") -> Iterator[None]:
    """Raise unillm's errors for those of TensorRT-LLM, pydantic's included.

    Args:
        doing: Part of the message: ``"while it built an engine"``.
        facts: Sentences about the engine and the machine, or nothing.
    """
    try:
        yield
    except Exception as error:
        raise translated(error, doing, facts=facts) from error


def shut_down(llm: Any) -> None:
    """Close an ``LLM``: ``shutdown``; in 0.13 to 0.17 ``_shutdown`` alone."""
    close = getattr(llm, "shutdown", None) or getattr(llm, "_shutdown", None)
    if close is not None:
        close()
