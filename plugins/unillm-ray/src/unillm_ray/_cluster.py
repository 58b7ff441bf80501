# SPDX-License-Identifier: Apache-2.0

"""The connection to a Ray cluster."""

from __future__ import annotations

import ray

LOCAL = "local"
"""Address of a cluster that is started in this machine and ends with this process."""


def connect(address: str) -> None:
    """Connect to a cluster, unless this process is connected.

    Args:
        address: Of the cluster; "auto" for that of this machine, or `LOCAL`.
    """
    if not ray.is_initialized():
        ray.init(address)
