# SPDX-License-Identifier: Apache-2.0

"""The contract on the embedded backend."""

from __future__ import annotations

from unillm.testing.contract import BackendContract


class TestTransformers(BackendContract):
    backend = "transformers"
