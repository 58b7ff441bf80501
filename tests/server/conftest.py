# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("uvicorn") is None:
    collect_ignore_glob = ["test_*.py"]  # the extra `server` is not installed
else:
    from server_process import running

    @pytest.fixture(scope="session")
    def server():
        """A server of the bundled model, on the embedded backend."""
        with running("unillm/tiny", "--dtype", "float32") as server:
            yield server
