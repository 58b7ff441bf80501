# SPDX-License-Identifier: Apache-2.0

"""The contract on the embedded backend."""

from __future__ import annotations

from unillm.testing.contract import BackendContract


def lose_the_model(scheduler):
    """What a device that fails leaves: every later pass raises."""
    scheduler._engine._model = None


class TestTransformers(BackendContract):
    backend = "transformers"
    kill_engine = staticmethod(lose_the_model)
