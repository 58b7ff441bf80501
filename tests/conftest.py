# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

_SLOW_MACHINES = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=60, derandomize=True, **_SLOW_MACHINES)
settings.register_profile("thorough", max_examples=1000, **_SLOW_MACHINES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """No test sees the caller's choice of backend, or reaches for a hub."""
    monkeypatch.delenv("UNILLM_BACKEND", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
