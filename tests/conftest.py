# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

import unillm

_SLOW_MACHINES = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=60, derandomize=True, **_SLOW_MACHINES)
settings.register_profile("thorough", max_examples=1000, **_SLOW_MACHINES)
# Once for each of hundreds of mutants: no example is made smaller.
settings.register_profile(
    "mutation",
    max_examples=20,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    **_SLOW_MACHINES,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A shell starts background jobs with SIGINT ignored, and the programs that the tests
# interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path_factory):
    """No test sees the caller's choice of backend, or reaches for a hub."""
    folder = tmp_path_factory.getbasetemp() / "no-settings"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.delenv("UNILLM_BACKEND", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def liar(tmp_path, monkeypatch):
    """Make the backend ``liar`` an installed plugin, here and in new processes."""
    info = tmp_path / "site" / "liar-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: liar\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unillm]\nliar = unillm_liar\n")
    plugin = Path(__file__).parent / "plugins" / "unillm-liar"
    source = Path(unillm.__file__).parents[1]
    path = os.pathsep.join(map(str, (source, info.parent, plugin)))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.syspath_prepend(info.parent)
