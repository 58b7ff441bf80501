# SPDX-License-Identifier: Apache-2.0

"""A plugin that does anything wrong is named, and disturbs no other."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from unillm import backends, plugins
from unillm.backend import (
    Availability,
    Backend,
    BatchEngine,
    Capabilities,
    SlotEngine,
    Support,
    hookimpl,
)
from unillm.cli.app import app
from unillm.errors import BackendNotFoundError, BackendUnavailableError, PluginError
from unillm.plugins import PluginRegistry
from unillm.resolve import resolve
from unillm.testing.scripted import ScriptedEngine

DISTRIBUTION = "unillm-mine 3.2"


class Installed(EntryPoint):
    """An entry point of a distribution that pip never saw."""

    @property
    def dist(self):
        return types.SimpleNamespace(name="unillm-mine", version="3.2")


class Mine(Backend):
    name = "mine"
    description = "for these tests"
    auto_rank = 1

    def availability(self):
        return Availability(available=True)

    def create_engine(self, config):
        return ScriptedEngine(lambda *_: 1)


@pytest.fixture
def install(monkeypatch):
    """Install objects as the only plugins: name of the entry point to module."""

    def install(**modules):
        entries = {}
        for name, module in modules.items():
            value = f"module_of_{name}".lower()
            entries[name] = [Installed(name=name, value=value, group="unillm")]
            monkeypatch.setitem(sys.modules, value, module)
        monkeypatch.setattr(plugins, "_entry_points", lambda: entries)

    return install


def plugin_of(make):
    """Return a plugin whose hook calls *make* for any name."""

    @hookimpl
    def unillm_create_backend(name):
        del name
        return make()

    return types.SimpleNamespace(unillm_create_backend=unillm_create_backend)


def backend_with(**attributes):
    """Return a plugin whose backend has some attributes of its own."""
    return plugin_of(type("Changed", (Mine,), attributes))


def raising(error):
    def fail(*_args, **_named):
        raise error

    return fail


class Wordless(Exception):
    def __str__(self):
        raise ValueError("no words")


class Unshowable:
    def __repr__(self):
        raise ValueError("no picture")


@hookimpl
def misspelt(name):
    return Mine()


@hookimpl
def with_another_argument(model):
    return Mine()


BROKEN = {
    "the hook raises": (plugin_of(raising(OSError("no disk"))), "no disk"),
    "the hook exits": (plugin_of(raising(SystemExit(3))), "SystemExit"),
    "the hook raises without words": (plugin_of(raising(Wordless())), "Wordless"),
    "no hook": (types.SimpleNamespace(), "decorate its function .* with @hookimpl"),
    "a hook without its decorator": (
        types.SimpleNamespace(unillm_create_backend=lambda name: Mine()),
        "decorate its function .* with @hookimpl",
    ),
    "a hook of another name": (
        types.SimpleNamespace(unillm_make_backend=misspelt),
        "unillm_make_backend",
    ),
    "a hook of other arguments": (
        types.SimpleNamespace(unillm_create_backend=with_another_argument),
        "model",
    ),
    "no backend": (plugin_of(lambda: None), "must return a Backend for the name"),
    "a class": (plugin_of(lambda: Mine), r"return an instance of it: Mine\(\)"),
    "another object": (plugin_of(Unshowable), "must return a Backend"),
    "a constructor that raises": (
        backend_with(__init__=raising(TypeError("no engine"))),
        "no engine",
    ),
    "another name": (backend_with(name="theirs"), "write name = 'mine' in Changed"),
    "an upper-case name": (backend_with(name="Mine"), "write name = 'mine' in Changed"),
    "a number as a name": (backend_with(name=7), "write name = 'mine'"),
    "a name that raises": (
        backend_with(name=property(raising(KeyError("name")))),
        "giving the attributes",
    ),
    "no description": (backend_with(description=None), "description is None"),
    "a rank that is a text": (backend_with(auto_rank="first"), "auto_rank is 'first'"),
    "a rank that is a flag": (backend_with(auto_rank=True), "auto_rank is True"),
    "options in one text": (
        backend_with(option_names="threads"),
        r"option_names is 'threads'; write frozenset\(",
    ),
    "a number as engine options": (
        backend_with(engine_options=3),
        r"engine_options is 3; write frozenset\(",
    ),
    "a list of reasons": (
        backend_with(option_reasons=["no"]),
        "option_reasons is",
    ),
    "capabilities that are a dict": (
        backend_with(capabilities={"top_p": True}),
        r"write Capabilities\(fields=",
    ),
    "a capability that is a support": (
        backend_with(capabilities=Capabilities(fields={"top_p": Support.NATIVE})),
        r"for 'top_p'; write Capability\(support=",
    ),
    "availability that raises": (
        backend_with(availability=raising(ImportError("no driver"))),
        "no driver",
    ),
    "availability that exits": (
        backend_with(availability=raising(SystemExit())),
        "SystemExit",
    ),
    "availability that is True": (
        backend_with(availability=lambda _: True),
        r"return Availability\(available=True\)",
    ),
    "availability that is False": (
        backend_with(availability=lambda _: False),
        r"return Availability\(available=False, reason=...\)",
    ),
    "availability that is a text": (
        backend_with(availability=lambda _: Availability(available="yes")),
        r"return Availability\(available=True\)",
    ),
    "a version that is a text": (
        backend_with(api_version="1.0"),
        r"api_version is '1.0'; write two numbers: \(1, 0\)",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_whatever_a_plugin_does_is_an_error_that_names_its_distribution(
    install, broken
):
    module, message = BROKEN[broken]
    install(mine=module)

    with pytest.raises(PluginError, match=message) as caught:
        resolve("unillm/tiny", "mine")

    assert DISTRIBUTION in str(caught.value)


@pytest.mark.parametrize("broken", BROKEN)
def test_auto_and_the_list_of_backends_go_on_with_the_others(install, broken):
    module, _ = BROKEN[broken]
    install(mine=module)

    listed = {status.name: status for status in backends()}

    assert resolve("unillm/tiny").backend.name == "transformers"
    assert listed["transformers"].available
    assert not listed["mine"].available
    assert DISTRIBUTION in listed["mine"].reason


@pytest.mark.parametrize("error", [OSError("no disk"), SystemExit(3), Wordless()])
def test_a_plugin_may_raise_anything_while_it_is_imported(install, monkeypatch, error):
    install(mine=types.SimpleNamespace())
    monkeypatch.setattr(Installed, "load", raising(error))

    with pytest.raises(PluginError, match="while being imported") as caught:
        resolve("unillm/tiny", "mine")

    assert DISTRIBUTION in str(caught.value)
    assert {status.name for status in backends() if status.available} >= {
        "transformers"
    }


def test_ctrl_c_while_a_plugin_is_imported_interrupts(install, monkeypatch):
    install(mine=types.SimpleNamespace())
    monkeypatch.setattr(Installed, "load", raising(KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        resolve("unillm/tiny", "mine")


def test_the_error_of_an_upper_case_entry_point_has_its_name(install):
    install(Mine=plugin_of(Mine))

    for name in ("Mine", "mine"):
        with pytest.raises(PluginError, match="call it 'mine'"):
            PluginRegistry().load(name)
    listed = {status.name: status for status in backends()}
    assert "call it 'mine'" in listed["Mine"].reason


def test_a_plugin_cannot_answer_for_the_name_of_another_one(install):
    install(first=plugin_of(Mine), mine=plugin_of(Mine))

    registry = PluginRegistry()
    with pytest.raises(PluginError, match="calls its backend 'mine'"):
        registry.load("first")

    assert registry.load("transformers").name == "transformers"


def test_one_module_may_have_two_backends(install):
    class Other(Mine):
        name = "other"

    @hookimpl
    def unillm_create_backend(name):
        return {"mine": Mine, "other": Other}[name]()

    module = types.SimpleNamespace(unillm_create_backend=unillm_create_backend)
    install(mine=module, other=module)

    registry = PluginRegistry()

    assert [registry.load(n).name for n in ("mine", "other")] == ["mine", "other"]


class Slots(SlotEngine):
    prefill = decode = release = close = None


class Batches(BatchEngine):
    run = close = None


class Unlimited(ScriptedEngine):
    def __init__(self):
        super().__init__(lambda *_: 1)
        del self.limits


class Overrated(ScriptedEngine):
    capabilities = {"top_p": True}


@pytest.mark.parametrize(
    ("make_engine", "message"),
    [
        (Slots, r"return SlotScheduler\(engine\)"),
        (Batches, r"return RunScheduler\(engine, clock=time.perf_counter\)"),
        (lambda: None, "returned a NoneType from create_engine.*; return an Engine"),
        (Unlimited, "giving limits"),
        (lambda: Overrated(lambda *_: 1), r"self.capabilities = Capabilities\("),
    ],
    ids=["slots", "batches", "nothing", "no limits", "wrong capabilities"],
)
def test_a_wrong_engine_is_refused_with_the_mend(install, make_engine, message):
    install(mine=backend_with(create_engine=lambda *_: make_engine()))

    with pytest.raises(PluginError, match=message) as caught:
        resolve("unillm/tiny", "mine").create_engine()

    assert DISTRIBUTION in str(caught.value)


def test_auto_goes_on_after_a_refusal_that_raises(install):
    install(mine=backend_with(refusal=raising(ZeroDivisionError("no layers"))))

    assert resolve("unillm/tiny").backend.name == "transformers"


def test_auto_names_the_broken_plugins_if_no_backend_is_left(install, monkeypatch):
    install(mine=backend_with(refusal=lambda *_: 7))
    monkeypatch.setattr(plugins, "EMBEDDED", {})

    with pytest.raises(BackendUnavailableError, match="returned 7 from refusal"):
        resolve("unillm/tiny")


def test_an_installed_plugin_is_never_chosen_unless_it_asks(install):
    quiet = type("Quiet", (Mine,), {"auto_rank": Backend.auto_rank})
    install(mine=plugin_of(quiet))

    assert Backend.auto_rank is None
    assert resolve("unillm/tiny").backend.name == "transformers"


@pytest.mark.parametrize(
    ("value", "loaded"),
    [
        (None, {"mine", "other"}),
        ("mine", {"mine"}),
        (" Mine ,x", {"mine"}),
        ("", set()),
    ],
)
def test_a_variable_names_the_plugins_that_may_be_loaded(
    install, monkeypatch, value, loaded
):
    install(
        mine=plugin_of(Mine), other=plugin_of(type("Other", (Mine,), {"name": "other"}))
    )
    monkeypatch.delenv("UNILLM_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("UNILLM_PLUGINS", value)

    listed = {status.name: status for status in backends()}

    assert {name for name, each in listed.items() if each.available} == {
        *loaded,
        "transformers",
    }
    for name in {"mine", "other"} - loaded:
        assert "does not name the installed plugin" in listed[name].reason
        with pytest.raises(BackendNotFoundError, match="UNILLM_PLUGINS="):
            PluginRegistry().load(name)


def test_an_unreadable_distribution_hides_no_plugin(monkeypatch, tmp_path):
    for name, text in (("good", "[unillm]\ngood = good\n"), ("bad", "[unillm]\nbad\n")):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    assert "good" in PluginRegistry().names()


def test_the_command_shows_the_error_of_a_broken_plugin(install):
    from typer.testing import CliRunner

    install(mine=BROKEN["the hook raises"][0])

    shown = CliRunner().invoke(app, ["backends"])

    assert shown.exit_code == 0
    assert "mine is not available: The plugin unillm-mine 3.2 raised OSError" in (
        shown.output
    )
