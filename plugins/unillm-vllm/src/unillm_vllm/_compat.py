# SPDX-License-Identifier: Apache-2.0

"""Differences between the versions of vLLM that this plugin supports, 0.26 to 0.33.

The plugin looks for names, not version strings. Everything else that it uses has the
same name and signature in these versions.

| | 0.26 | from 0.27 |
|---|---|---|
| a request that vLLM refuses | `ValueError` | `VLLMClientError`, not a `ValueError` |
| `InprocClient.shutdown` | not idempotent | idempotent from 0.32 at the latest |

The second needs no code here: `VllmEngine.close` runs once.
"""

from __future__ import annotations

from typing import Any


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions with which vLLM refuses a request.

    Wrong types raise `TypeError`, and some checks still raise a plain `ValueError`.
    """
    from vllm import exceptions

    own = getattr(exceptions, "VLLMClientError", None)
    return (ValueError, TypeError, *((own,) if own is not None else ()))


def search_modules_of_any_kind() -> None:
    """Let vLLM search a process whose modules hold objects without a dict.

    On a CPU vLLM looks for its kernels in ``vars()`` of every object of every module.
    llvmlite, which comes with numba, holds one that answers with no dict, so no engine
    would start in a process that has imported numba.

    References:
        ``_rebind_kernels`` in ``vllm/triton_utils/dispatcher.py``, vLLM 0.32.
    """
    try:
        from vllm.triton_utils import dispatcher
    except ImportError:  # older versions do not search
        return
    dispatcher.vars = _attributes


def _attributes(value: Any) -> dict[str, Any]:
    found: Any = vars(value)
    return found if hasattr(found, "get") else {}
