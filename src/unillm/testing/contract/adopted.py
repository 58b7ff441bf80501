# SPDX-License-Identifier: Apache-2.0

"""The contract on the backend that `unillm.testing.conformance` runs."""

from __future__ import annotations

from .suite import BackendContract


class TestBackend(BackendContract):
    """The run sets its settings."""
