# SPDX-License-Identifier: Apache-2.0

"""The GPU that an engine is bound to, and its free memory."""

from __future__ import annotations


def architecture() -> str | None:
    """Return the compute capability of the first GPU as ``"sm_90"``, or `None`."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"sm_{major}{minor}"


def free_bytes() -> int | None:
    """Return the free memory of the first GPU, or `None`."""
    if architecture() is None:
        return None
    import torch

    free: int = torch.cuda.mem_get_info(0)[0]
    return free
