# SPDX-License-Identifier: Apache-2.0

"""Programs that people have, against a server of the bundled model.

Each is tested where its package is installed; the session `server_clients` of nox
installs all. ``UNILLM_SERVER_PYTHON`` names the interpreter that runs the server.
"""

from __future__ import annotations

import importlib.util

import pytest

PACKAGES = {
    "test_langchain.py": "langchain_tests",
    "test_litellm.py": "litellm",
    "test_inspect_ai.py": "inspect_ai",
    "test_lm_eval.py": "lm_eval",
}
collect_ignore = [
    file for file, package in PACKAGES.items() if not importlib.util.find_spec(package)
]


@pytest.fixture(scope="session")
def url():
    """Address of the server, with ``/v1``."""
    from server_process import running

    with running("unillm/tiny", "--dtype", "float32") as server:
        yield f"{server.url}/v1"
