# SPDX-License-Identifier: Apache-2.0

"""What differs between the versions of vLLM that this plugin takes, 0.26 to 0.33.

Found by what is there, never by a version string. All else that the plugin touches has
the same name and signature in these versions.

| what | 0.26 | from 0.27 |
|---|---|---|
| a request that vLLM refuses | `ValueError` | `VLLMClientError`, which is none |
| `InprocClient.shutdown` | not idempotent | idempotent from 0.32 at the latest |

The second needs no code here: `VllmEngine.close` runs once.
"""

from __future__ import annotations


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that say that one request cannot be served.

    Wrong types come as `TypeError`, and some checks still raise a plain `ValueError`.
    """
    from vllm import exceptions

    own = getattr(exceptions, "VLLMClientError", None)
    return (ValueError, TypeError, *((own,) if own is not None else ()))
