# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code, on the fake.

The fake trusts code of a checkpoint while it builds an engine, as the published sources
do.
"""

from __future__ import annotations

import pytest

from unillm.testing.hostile import HostileDirectories


class _OnTheFake(HostileDirectories):
    backend = "tensorrt-llm"
    version: str

    @pytest.fixture(autouse=True)
    def _installed(self, install):
        install(self.version)


class TestRunnerOf011(_OnTheFake):
    version = "0.11"


class TestEnginesOf021(_OnTheFake):
    version = "0.21"


class TestPyTorchOf14(_OnTheFake):
    version = "1.4"
