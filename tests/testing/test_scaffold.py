# SPDX-License-Identifier: Apache-2.0

"""The distribution that `unillm new-backend` writes: it passes with its own engine."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import EntryPoint

import pytest

from unillm import plugins
from unillm.errors import ConfigError
from unillm.testing.conformance import Outcome, run_contract
from unillm.testing.scaffold import write_backend

KINDS = ["engine", "slots", "batch"]


@pytest.fixture(params=KINDS)
def installed(request, tmp_path, monkeypatch):
    """Write a backend of each kind, and make it look installed."""
    name = f"my-{request.param}"
    write_backend(name, request.param, tmp_path)
    root = tmp_path / f"unillm-{name}"
    project = (root / "pyproject.toml").read_text()
    entry, module = re.search(
        r'entry-points.unillm]\n(\S+) = "(\S+)"', project
    ).groups()
    monkeypatch.syspath_prepend(root / "src")
    found = {entry: [EntryPoint(entry, module, "unillm")]}
    monkeypatch.setattr(plugins, "_entry_points", lambda: found)
    importlib.invalidate_caches()
    yield name
    for each in [each for each in sys.modules if each.startswith(module)]:
        del sys.modules[each]


def test_a_new_backend_passes_the_contract(installed):
    # The other clauses are about the core, whatever engine is below it.
    found = run_contract(installed, core=True)

    assert [each.number for each in found.of(Outcome.FAILED)] == []
    assert {each.number for each in found.of(Outcome.NOT_DECLARED)} == {"R12"}
    assert {each.number for each in found.of(Outcome.NOT_SHOWN)} == set()


def test_no_file_keeps_the_name_of_the_template(tmp_path):
    for path in write_backend("my-engine", "slots", tmp_path):
        assert "newengine" not in path.read_text().lower()
    assert (tmp_path / "unillm-my-engine/src/unillm_my_engine/engine.py").is_file()


@pytest.mark.parametrize("name", ["", "My", "1st", "a_b", "a--b", "../up", "a-"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="not a name for a backend"):
        write_backend(name, "slots", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_hold_that_of_the_template(tmp_path):
    project, *_, package, engine = write_backend("newengine-2", "slots", tmp_path)

    assert 'newengine-2 = "unillm_newengine_2"' in project.read_text()
    assert "class Newengine2Backend(Backend):" in package.read_text()
    assert engine.parent.name == "unillm_newengine_2"


@pytest.mark.parametrize("name", ["transformers", "vllm", "auto", "sdk"])
def test_a_taken_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="belongs to unillm"):
        write_backend(name, "slots", tmp_path)


def test_an_existing_folder_stays_as_it_is(tmp_path):
    write_backend("mine", "slots", tmp_path)
    engine = tmp_path / "unillm-mine" / "src" / "unillm_mine" / "engine.py"
    engine.write_text("my work")

    with pytest.raises(ConfigError, match="exists"):
        write_backend("mine", "batch", tmp_path)
    assert engine.read_text() == "my work"
