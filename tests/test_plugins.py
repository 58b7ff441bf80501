# SPDX-License-Identifier: Apache-2.0

"""Plugins: listed without an import, loaded by name, and a real one installed by pip."""

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
from unillm.distributions import install_plugin
from unillm.engines.backend import Availability, Backend
from unillm.errors import BackendNotFoundError, PluginError
from unillm.hookspecs import hookimpl
from unillm.plugins import PluginRegistry

ECHO = Path(__file__).parent / "plugins" / "unillm-echo"
PIP_INSTALL = (sys.executable, "-m", "pip", "install", "-q", "--no-deps")


class FakeBackend(Backend):
    name = "fake"
    description = "for these tests"

    def availability(self):
        return Availability(
            available=False, reason="no such device", remedy="pip install a-device"
        )

    def create_engine(self, config):
        raise NotImplementedError


def module_for(backend):
    @hookimpl
    def unillm_create_backend(name):
        return backend if name == "fake" else None

    return types.SimpleNamespace(unillm_create_backend=unillm_create_backend)


@pytest.fixture
def install(monkeypatch):
    """Make modules look like the only installed plugins: name to module."""

    def install(**modules):
        entries = {}
        for name, module in modules.items():
            entry = EntryPoint(name=name, value=f"fake_{name}", group="unillm")
            monkeypatch.setitem(sys.modules, f"fake_{name}", module)
            entries[name] = [entry]
        monkeypatch.setattr(plugins, "_entry_points", lambda: entries)

    return install


def status_of(name):
    return {status.name: status for status in backends()}[name]


def test_the_embedded_backend_comes_through_the_same_hook():
    backend = PluginRegistry().load("transformers")

    assert (backend.name, backend.auto_rank) == ("transformers", 100)


def test_the_error_of_an_unknown_name_lists_the_installed_backends(install):
    install()

    with pytest.raises(BackendNotFoundError, match="Did you mean 'transformers'") as e:
        PluginRegistry().load("transformer")

    assert (e.value.name, e.value.installed) == ("transformer", ("transformers",))
    assert isinstance(e.value, LookupError)


def test_the_error_of_a_backend_that_is_not_installed_names_the_command(install):
    install()

    with pytest.raises(
        BackendNotFoundError, match=r"pip install .*plugins/unillm-vllm"
    ):
        PluginRegistry().load("vllm")

    status = status_of("vllm")
    assert (status.available, status.remedy) == (False, install_plugin("vllm"))


def test_the_status_of_an_unavailable_backend_has_its_reason_and_remedy(install):
    install(fake=module_for(FakeBackend()))

    status = status_of("fake")

    assert (status.available, status.reason) == (False, "no such device")
    assert status.remedy == "pip install a-device"


def test_a_plugin_that_cannot_be_imported_disturbs_no_other(install):
    install(broken=None)  # None in sys.modules makes the import fail

    assert status_of("transformers").available
    assert not status_of("broken").available
    assert "while being imported" in status_of("broken").reason
    with pytest.raises(PluginError, match="while being imported"):
        PluginRegistry().load("broken")


@hookimpl
def unillm_create_backends(name):
    return None


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (module_for("not a backend"), "must return a Backend"),
        (
            types.SimpleNamespace(unillm_create_backends=unillm_create_backends),
            "unknown hook .*unillm_create_backends",
        ),
    ],
    ids=["returns no backend", "misspells the hook"],
)
def test_a_plugin_that_breaks_the_contract_is_refused(install, module, message):
    install(fake=module)

    with pytest.raises(PluginError, match=message):
        PluginRegistry().load("fake")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ((4, 0), r"for version 4.0 .* serves versions 2.1 to 3.2. Upgrade unillm"),
        ((3, 3), r"for version 3.3 .* serves versions 2.1 to 3.2. Upgrade unillm"),
        ((2, 0), r"for version 2.0 .* serves versions 2.1 to 3.2. Upgrade the plugin"),
        ((3, 2), None),
        ((2, 7), None),
    ],
    ids=["newer", "newer addition", "too old", "current", "still served"],
)
def test_a_backend_of_another_version_of_the_face_is_refused(
    install, monkeypatch, version, message
):
    backend = FakeBackend()
    backend.api_version = version
    install(fake=module_for(backend))
    monkeypatch.setattr(plugins, "OLDEST_API", (2, 1))
    monkeypatch.setattr(plugins, "API_VERSION", (3, 2))

    if message is None:
        assert PluginRegistry().load("fake") is backend
    else:
        with pytest.raises(PluginError, match=message):
            PluginRegistry().load("fake")


def test_a_backend_that_states_no_version_was_written_for_the_first():
    assert FakeBackend().api_version == (1, 0)


def test_two_plugins_of_one_name_are_refused(monkeypatch):
    entries = [EntryPoint("fake", value, "unillm") for value in ("one", "two")]
    monkeypatch.setattr(plugins, "_entry_points", lambda: {"fake": entries})

    with pytest.raises(PluginError, match="Several plugins"):
        PluginRegistry().load("fake")


def test_every_hook_documents_when_where_and_results():
    manager = pluggy.PluginManager("unillm")
    manager.add_hookspecs(hookspecs)

    names = [name for name in vars(manager.hook) if name.startswith("unillm_")]
    assert names == ["unillm_create_backend"]
    for name in names:
        text = inspect.getdoc(getattr(hookspecs, name))
        assert all(word in text for word in ("When:", "Where:", "Results:", "Returns:"))


@pytest.fixture(scope="session")
def echo_installed(tmp_path_factory):
    """A third-party plugin, built and installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [*PIP_INSTALL, "--target", target, ECHO],
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
    assert run.returncode == 0, run.stderr
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

    assert json.loads(printed) == {
        "status": [True, "unillm-echo 0.3.1"],
        "texts": ["to be", "or not"],
        "reasons": ["stop", "stop"],
    }


@pytest.mark.slow
def test_the_error_of_an_unsupported_parameter_names_the_backends_that_honour_it(
    echo_installed,
):
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
