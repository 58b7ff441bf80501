# SPDX-License-Identifier: Apache-2.0

"""One resolver: the model is found once, the options checked, the backend chosen."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from typer.testing import CliRunner

from unillm import LLM, Generator, inspect_model, plugins
from unillm.cli import machine
from unillm.cli.app import app
from unillm.comparison import worker
from unillm.engines.backend import Availability, Backend
from unillm.errors import BackendUnavailableError, ConfigError
from unillm.model import find
from unillm.model.find import BUNDLED
from unillm.plugins import PluginRegistry
from unillm.preparation import plan_engine, prepare_engine
from unillm.resolve import resolve
from unillm.testing import conformance
from unillm.testing.backends import plugged, reference_backend
from unillm.testing.conformance import Conformance

HUB_ID = "organisation/tiny"


class FakeBackend(Backend):
    name = "fake"
    description = "for these tests"
    engine_options = frozenset({"quantization"})
    option_reasons = MappingProxyType({"enable_lora": "its engine has no adapters"})
    option_names = frozenset({"threads"})

    def __init__(self, *, rank=10, available=True, refusal=None):
        self.auto_rank = rank
        self._availability = Availability(
            available=available,
            reason="" if available else "no such device",
            remedy="pip install a-device",
        )
        self._refusal = refusal

    def availability(self):
        return self._availability

    def refusal(self, config):
        return self._refusal

    def create_engine(self, config):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def only_embedded(monkeypatch):
    monkeypatch.setattr(plugins, "_entry_points", dict)


# ------------------------------------------------------------------------ the backend


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rank": 10}, "fake"),
        ({"rank": 200}, "transformers"),
        ({"rank": None}, "transformers"),
        ({"available": False}, "transformers"),
        ({"refusal": "it is too big"}, "transformers"),
    ],
    ids=["sooner", "later", "never", "unavailable", "refuses the model"],
)
def test_auto_takes_the_first_backend_that_can(fields, expected):
    if expected == "transformers":
        pytest.importorskip("torch")

    with plugged(FakeBackend(**fields)):
        found = resolve("unillm/tiny")

    assert (found.backend.name, found.config.backend) == (expected, "auto")


def test_auto_names_the_reason_of_each_backend_where_none_can(monkeypatch):
    monkeypatch.setattr(plugins, "EMBEDDED", {})

    with (
        plugged(FakeBackend(refusal="it is too big")),
        pytest.raises(BackendUnavailableError, match="  fake: it is too big"),
    ):
        resolve("unillm/tiny")


def test_an_unavailable_backend_is_refused_with_the_command_that_helps():
    with (
        plugged(FakeBackend(available=False)),
        pytest.raises(BackendUnavailableError, match="Run: pip install a-device") as e,
    ):
        resolve("unillm/tiny", "fake")

    assert (e.value.name, e.value.remedy) == ("fake", "pip install a-device")


def test_a_plan_takes_a_named_backend_that_cannot_run_here():
    with plugged(FakeBackend(available=False)):
        assert plan_engine("unillm/tiny", backend="fake").backend == "fake"


# ------------------------------------------------------------------------ the options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enable_lora": True}, "enable_lora=True: its engine has no adapters. Leave"),
        ({"max_loras": 2}, "max_loras=2: the engine has no such option"),
        ({"backend_options": {"thread": 1}}, "Did you mean 'threads'.* It takes: thre"),
    ],
    ids=["with the backend's reason", "without one", "of the backend"],
)
def test_an_option_that_the_backend_does_not_honour_is_refused(options, message):
    with plugged(FakeBackend()):
        found = resolve("unillm/tiny", "fake")

        with pytest.raises(ConfigError, match=message):
            resolve("unillm/tiny", "fake", **options)
        with pytest.raises(ConfigError, match=message):
            found.with_options(**options)


def test_an_invalid_option_is_refused_before_the_model_is_downloaded(monkeypatch):
    downloads = []
    monkeypatch.setattr(find, "download", lambda name, **_: downloads.append(name))

    with pytest.raises(ConfigError, match="max_num_seqs must be"):
        resolve(HUB_ID, max_num_seqs=0)

    assert downloads == []


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "awq"},
        {"backend_options": {"threads": 2}},
        {"tensor_parallel_size": 1},
        {"enable_lora": False},
    ],
    ids=["honoured", "of the backend", "a default", "a default that is false"],
)
def test_honoured_options_and_defaults_are_taken(options):
    with plugged(FakeBackend()):
        found = resolve("unillm/tiny", "fake", **options)

    assert {name: getattr(found.config, name) for name in options} == options


# ---------------------------------------------------------------------- the entrances


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
    checks = ["doctor", HUB_ID, "--contract", "--backend", "scripted"]
    result = CliRunner().invoke(app, checks)
    assert result.exit_code == 0, result.output


def run_contract():
    with pytest.raises(ClausesReachedError):
        conformance.run_contract("scripted", model=HUB_ID)


def compare():
    task = worker.Task(model=HUB_ID, options={"backend": "scripted"}, max_tokens=1)
    worker._answer_all(task, ["a"], lambda **_: None)


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
        compare,
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

    monkeypatch.setattr(find, "download", download)
    monkeypatch.setattr("pytest.main", reach_clauses)
    if enter is doctor:
        conforming = Conformance(backend="scripted", distribution="", results=())
        monkeypatch.setattr(conformance, "run_contract", lambda *_, **__: conforming)
        monkeypatch.setattr(machine, "facts", dict)  # the report has a look of its own
    with plugged(reference_backend()):
        monkeypatch.setattr(PluginRegistry, "__init__", looked)
        enter()
        monkeypatch.undo()

    assert (downloads, len(registries)) == ([HUB_ID], 1)


@pytest.mark.parametrize("reads_weights", [True, False])
def test_weights_are_downloaded_for_backends_that_read_them(monkeypatch, reads_weights):
    wanted = []

    def download(_name, *, revision, weights):
        assert revision is None
        wanted.append(weights)
        return BUNDLED["unillm/tiny"]

    monkeypatch.setattr(find, "download", download)
    backend = reference_backend()
    backend.reads_weights = reads_weights

    with plugged(backend):
        resolve(HUB_ID, backend.name)

    assert wanted == [reads_weights]
