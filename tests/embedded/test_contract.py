# SPDX-License-Identifier: Apache-2.0

"""The contract on the embedded backend."""

from __future__ import annotations

from unillm.testing.contract import BackendContract


def lose_the_device(scheduler):
    """Make every later pass raise, as it does on a device that failed."""
    scheduler._engine._runner = None


class TestTransformers(BackendContract):
    backend = "transformers"
    kill_engine = staticmethod(lose_the_device)
