# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code, on each version of the fake.

The fake trusts code of a checkpoint while it builds an engine, as the published sources
do.
"""

from __future__ import annotations

import pytest

from unillm.testing.hostile import HostileDirectories


class TestOnTheFake(HostileDirectories):
    backend = "tensorrt-llm"

    @pytest.fixture(autouse=True)
    def _installed(self, profile):
        """Install every version in turn."""
