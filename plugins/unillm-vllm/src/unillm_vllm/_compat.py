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


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions with which vLLM refuses a request.

    Wrong types raise `TypeError`, and some checks still raise a plain `ValueError`.
    """
    from vllm import exceptions

    own = getattr(exceptions, "VLLMClientError", None)
    return (ValueError, TypeError, *((own,) if own is not None else ()))
