# SPDX-License-Identifier: Apache-2.0

"""Plugins: found without an import, loaded by name, and a real one installed by pip."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pluggy
import pytest

from unillm import backends, hookspecs, plugins
from unillm.config import EngineConfig
from unillm.engines.backend import Availability, Backend
from unillm.errors import BackendNotFoundError, BackendUnavailableError, PluginError
from unillm.hookspecs import hookimpl
from unillm.plugins import PluginRegistry
from unillm.resolve import choose_backend

ECHO = Path(__file__).parent / "plugins" / "unillm-echo"


class FakeBackend(Backend):
    description = "for these tests"

    def __init__(self, name="fake", rank=10, available=True, refusal=None):
        self.name = name
        self.auto_rank = rank
        self._available = available
        self._refusal = refusal

    def availability(self):
        if self._available:
            return Availability(available=True)
        return Availability(
            available=False, reason="no such device", remedy="pip install a-device"
        )

    def refusal(self, config):
        return self._refusal

    def create_engine(self, config):
        raise NotImplementedError


def module_for(backend):
    @hookimpl
    def unillm_create_backend(name):
        return backend if name == getattr(backend, "name", "fake") else None

    return types.SimpleNamespace(unillm_create_backend=unillm_create_backend)


@pytest.fixture
def install(monkeypatch):
    """Make modules look like installed plugins: name to module."""

    def install(**modules):
        entries = {}
        for name, module in modules.items():
            entry = EntryPoint(name=name, value=f"fake_{name}", group="unillm")
            monkeypatch.setitem(sys.modules, f"fake_{name}", module)
            entries[name] = [entry]
        monkeypatch.setattr(plugins, "_entry_points", lambda: entries)

    return install


def config(tmp_path, **options) -> EngineConfig:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return EngineConfig.create(
        model="m", path=tmp_path, **{"backend": "auto", **options}
    )


def test_the_embedded_backend_comes_through_the_same_hook():
    backend = PluginRegistry().load("transformers")

    assert "transformers" == backend.name
    assert 100 == backend.auto_rank


def test_an_unknown_name_is_told_with_what_is_installed(install):
    install()

    with pytest.raises(BackendNotFoundError, match="Did you mean 'transformers'") as e:
        PluginRegistry().load("transformer")

    assert ("transformer", ("transformers",)) == (e.value.name, e.value.installed)
    assert isinstance(e.value, LookupError)


def test_a_known_backend_that_is_not_installed_says_how_to_get_it(install):
    install()

    with pytest.raises(BackendNotFoundError, match="pip install unillm-vllm"):
        PluginRegistry().load("vllm")

    status = {each.name: each for each in backends()}["vllm"]
    assert (False, "pip install unillm-vllm") == (status.available, status.remedy)


def test_a_plugin_that_cannot_be_imported_harms_nobody_else(install, monkeypatch):
    install(broken=None)  # None in sys.modules makes the import fail

    statuses = {status.name: status for status in backends()}

    assert statuses["transformers"].available
    assert not statuses["broken"].available
    assert "cannot be imported" in statuses["broken"].reason
    with pytest.raises(PluginError, match="cannot be imported"):
        PluginRegistry().load("broken")


def test_a_plugin_that_gives_no_backend_is_refused(install):
    install(fake=module_for("not a backend"))

    with pytest.raises(PluginError, match="must return a Backend"):
        PluginRegistry().load("fake")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (4, "for version 4 .* serves versions 2 to 3. Upgrade unillm"),
        (1, "for version 1 .* serves versions 2 to 3. Upgrade the plugin"),
        (3, None),
        (2, None),
    ],
    ids=["newer", "too old", "current", "still served"],
)
def test_a_backend_of_another_contract_version_is_refused(
    install, monkeypatch, version, message
):
    backend = FakeBackend()
    backend.contract_version = version
    install(fake=module_for(backend))
    monkeypatch.setattr(plugins, "OLDEST_CONTRACT", 2)
    monkeypatch.setattr(plugins, "CONTRACT_VERSION", 3)

    if message is None:
        assert PluginRegistry().load("fake") is backend
    else:
        with pytest.raises(PluginError, match=message):
            PluginRegistry().load("fake")


def test_a_backend_that_states_no_contract_version_was_written_for_the_first():
    assert FakeBackend().contract_version == 1


def test_a_misspelt_hook_is_refused(install):
    @hookimpl
    def unillm_create_backends(name):
        return None

    install(fake=types.SimpleNamespace(unillm_create_backends=unillm_create_backends))

    with pytest.raises(PluginError, match="unillm_create_backends"):
        PluginRegistry().load("fake")


def test_two_plugins_of_one_name_are_an_error_that_names_both(monkeypatch):
    entries = [EntryPoint("fake", value, "unillm") for value in ("one", "two")]
    monkeypatch.setattr(plugins, "_entry_points", lambda: {"fake": entries})

    with pytest.raises(PluginError, match="Several plugins"):
        PluginRegistry().load("fake")


def test_an_unavailable_backend_tells_the_command_that_helps(install, tmp_path):
    install(fake=module_for(FakeBackend(available=False)))

    with pytest.raises(BackendUnavailableError, match="Run: pip install a-device") as e:
        choose_backend(PluginRegistry(), config(tmp_path, backend="fake"))

    assert "pip install a-device" == e.value.remedy
    status = {each.name: each for each in backends()}["fake"]
    assert (False, "no such device") == (status.available, status.reason)


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
def test_auto_takes_the_first_that_can(install, tmp_path, fields, expected):
    install(fake=module_for(FakeBackend(**fields)))
    transformers = PluginRegistry().load("transformers")
    can_transformers = transformers.availability().available

    if expected == "transformers" and not can_transformers:
        pytest.skip("torch is not installed")
    assert expected == choose_backend(PluginRegistry(), config(tmp_path)).name


def test_the_environment_chooses_when_the_code_does_not(monkeypatch, tmp_path):
    monkeypatch.setenv("UNILLM_BACKEND", "from-environment")

    assert "from-environment" == config(tmp_path).backend
    assert "environment" == config(tmp_path).source_of("backend").value
    assert "written" == config(tmp_path, backend="written").backend


def test_every_hook_documents_when_where_and_results():
    manager = pluggy.PluginManager("unillm")
    manager.add_hookspecs(hookspecs)

    names = [name for name in vars(manager.hook) if name.startswith("unillm_")]
    assert ["unillm_create_backend"] == names
    for name in names:
        text = inspect.getdoc(getattr(hookspecs, name))
        assert all(word in text for word in ("When:", "Where:", "Results:", "Returns:"))


@pytest.fixture(scope="session")
def echo_installed(tmp_path_factory):
    """A third-party plugin, built and installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            target,
            ECHO,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return target


def run_with(site: Path, code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == run.returncode, run.stderr
    return run.stdout


@pytest.mark.slow
def test_an_installed_plugin_is_listed_and_generates(echo_installed):
    printed = run_with(
        echo_installed,
        """
        import json
        from unillm import Generator, SamplingParams, backends
        status = {each.name: each for each in backends()}["echo"]
        with Generator("unillm/tiny", backend="echo") as generator:
            outputs = generator.generate(["to be", "or not"], SamplingParams(max_tokens=50))
        print(json.dumps({
            "status": [status.available, status.distribution],
            "texts": [output.text for output in outputs],
            "reasons": [output.finish_reason for output in outputs],
        }))
        """,
    )

    assert {
        "status": [True, "unillm-echo 0.3.1"],
        "texts": ["to be", "or not"],
        "reasons": ["stop", "stop"],
    } == json.loads(printed)


@pytest.mark.slow
def test_what_a_plugin_cannot_honour_is_refused_with_who_can(echo_installed):
    printed = run_with(
        echo_installed,
        """
        from unillm import Generator, SamplingParams
        from unillm.errors import UnsupportedParameterError
        with Generator("unillm/tiny", backend="echo") as generator:
            try:
                generator.generate("to be", SamplingParams(top_p=0.5))
            except UnsupportedParameterError as error:
                print(error)
        """,
    )

    assert "'echo' cannot honour top_p=0.5: it can only echo" in printed
    assert re.search(r"These backends can: .*\btransformers\b", printed)
