# SPDX-License-Identifier: Apache-2.0

"""The contract on the backend that `unillm.testing.conformance` was asked about."""

from __future__ import annotations

from .suite import BackendContract


class TestBackend(BackendContract):
    """Its settings are put in by the run."""
