# SPDX-License-Identifier: Apache-2.0

"""The contract over HTTP, on real servers of the bundled model."""

from __future__ import annotations

import pytest

from unillm.testing.contract import BackendContract


@pytest.fixture(scope="module", autouse=True)
def address(unillm_server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNILLM_REMOTE_URL", unillm_server.url)
        yield


class TestUnillmServe(BackendContract):
    backend = "remote"
