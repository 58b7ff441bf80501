# SPDX-License-Identifier: Apache-2.0

"""One resolver: every entrance finds the model once and looks for plugins once."""

from __future__ import annotations

import huggingface_hub
import pytest
from typer.testing import CliRunner

from unillm import LLM, Generator, inspect_model
from unillm.cli.app import app
from unillm.model.find import BUNDLED
from unillm.plugins import PluginRegistry
from unillm.preparation import plan_engine, prepare_engine
from unillm.testing import conformance
from unillm.testing.backends import plugged, reference_backend
from unillm.testing.conformance import Conformance

HUB_ID = "organisation/tiny"


def open_generator():
    Generator(HUB_ID, backend="scripted").close()


def open_llm():
    LLM(HUB_ID, backend="scripted").close()


def open_llm_of_any_backend():
    LLM(HUB_ID, max_model_len=64, enable_prefix_caching=True).close()


def inspect():
    inspect_model(HUB_ID, backend="scripted")


def plan():
    plan_engine(HUB_ID, backend="scripted")


def plan_for_any_backend():
    plan_engine(HUB_ID)


def build():
    prepare_engine(HUB_ID, backend="scripted")


def doctor():
    result = CliRunner().invoke(app, ["doctor", HUB_ID, "--backend", "scripted"])
    assert result.exit_code == 0, result.output


def run_contract():
    with pytest.raises(ClausesReachedError):
        conformance.run_contract("scripted", model=HUB_ID)


class ClausesReachedError(Exception):
    """Stands for the run of the clauses, which open engines of their own."""


@pytest.mark.parametrize(
    "enter",
    [
        open_generator,
        open_llm,
        open_llm_of_any_backend,
        inspect,
        plan,
        plan_for_any_backend,
        build,
        doctor,
        run_contract,
    ],
)
def test_an_entrance_downloads_a_model_once_and_looks_for_plugins_once(
    enter, monkeypatch
):
    downloads, registries = [], []
    look = PluginRegistry.__init__

    def download(name, **_):
        downloads.append(name)
        return BUNDLED["unillm/tiny"]

    def looked(self):
        registries.append(self)
        look(self)

    def reach_clauses(*_, **__):
        raise ClausesReachedError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr("pytest.main", reach_clauses)
    if enter is doctor:
        conforming = Conformance(backend="scripted", distribution="", results=())
        monkeypatch.setattr(conformance, "run_contract", lambda *_, **__: conforming)
    with plugged(reference_backend()):
        monkeypatch.setattr(PluginRegistry, "__init__", looked)
        enter()
        monkeypatch.undo()

    assert (downloads, len(registries)) == ([HUB_ID], 1)
