# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code, on the double.

It loads a configuration as the published sources do: with trust, where an engine is
built.
"""

from __future__ import annotations

import pytest

from unillm.testing.hostile import HostileDirectories


class _OnTheDouble(HostileDirectories):
    backend = "tensorrt-llm"
    version: str

    @pytest.fixture(autouse=True)
    def _installed(self, install):
        install(self.version)


class TestRunnerOf011(_OnTheDouble):
    version = "0.11"


class TestEnginesOf021(_OnTheDouble):
    version = "0.21"


class TestPyTorchOf14(_OnTheDouble):
    version = "1.4"
