# SPDX-License-Identifier: Apache-2.0

"""The names of the distributions, and the commands that install them."""

import json
import re
import sys
import warnings
from importlib.metadata import distribution
from pathlib import Path

import pytest

from unillm import backends, distributions
from unillm.distributions import install, install_plugin, plugin

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").iterdir())
INSTALL = re.compile(r"pip install (?P<what>[^&#`\n]*)")
STRANGER = re.compile(
    r"""(?<![\w./-])unillm(-sdk)?(\[|-(vllm|ctranslate2|tensorrt-llm|remote|ray)\b|["'\s]|$)"""
)
KEPT = {"src/unillm/distributions.py", "tests/test_distributions.py"}
IGNORED = {".git", ".nox", ".venv", "_build", "__pycache__", "results"}
TEXTS = {".md", ".py", ".toml", ".yml", ""}


def texts():
    for path in ROOT.rglob("*"):
        name = path.relative_to(ROOT)
        if path.suffix not in TEXTS or not path.is_file() or name.as_posix() in KEPT:
            continue
        if not IGNORED & {*name.parts}:
            yield name.as_posix(), path.read_text(encoding="utf-8", errors="replace")


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def requirements(folder):
    found = project(folder)
    extras = found.get("optional-dependencies", {}).values()
    return [*found["dependencies"], *(each for extra in extras for each in extra)]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Return a function that installs nothing but metadata, before all others."""

    def record(name, *, version="0.1.0", url=None):
        folder = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
            "Summary: One interface to chat APIs\n"
        )
        (folder / "RECORD").write_text("unillm/__init__.py,,\n")
        if url is not None:
            (folder / "direct_url.json").write_text(json.dumps({"url": url}))
        monkeypatch.syspath_prepend(tmp_path / "site")

    return record


@pytest.fixture
def copy(monkeypatch):
    """Make the package look like an installed copy, outside of a checkout."""
    monkeypatch.setattr(distributions, "_checkout", lambda: None)


def test_the_metadata_have_the_names_of_the_module():
    names = [project(folder)["name"] for folder in PLUGINS]

    assert project(ROOT)["name"] == distributions.CORE
    assert names == [plugin(each.name.removeprefix("unillm-")) for each in PLUGINS]
    assert {plugin(name) for name in distributions.BACKENDS} < {*names}
    assert distribution(distributions.CORE).metadata["Name"] == distributions.CORE


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda each: each.name)
def test_a_plugin_depends_on_the_core_by_its_name(folder):
    needed = [re.split(r"[^\w-]", each)[0] for each in requirements(folder)]

    assert distributions.CORE in needed
    assert distributions.FOREIGN not in needed


def test_no_text_installs_what_is_not_published():
    wrong = [
        (name, line.group())
        for name, text in texts()
        for line in INSTALL.finditer(text)
        if STRANGER.search(line["what"])
    ]

    assert wrong == []


def test_no_text_names_an_extra_or_metadata_of_the_other_project():
    pattern = re.compile(r"""\bunillm\[[a-z]|(version|distribution)\(["']unillm["']""")

    assert [name for name, text in texts() if pattern.search(text)] == []


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda each: each.name)
def test_the_remedies_of_a_plugin_are_its_requirements(folder):
    sources = [path.read_text() for path in (folder / "src").rglob("*.py")]
    named = re.findall(r'pip install "([^"]+)"', "".join(sources))

    assert {*named} <= {*requirements(folder), *requirements(ROOT)}


def test_a_remedy_names_the_checkout():
    assert install("server").removeprefix("pip install ").removeprefix("-e ") == (
        f'"{ROOT}[server]"'
    )
    assert install_plugin("vllm") == f'pip install "{ROOT / "plugins/unillm-vllm"}"'
    assert install(python="/env/bin/python").startswith("/env/bin/python -m pip ins")


@pytest.mark.usefixtures("copy")
def test_a_remedy_names_the_folder_that_was_installed(recorded):
    recorded(distributions.CORE, url=ROOT.as_uri())

    assert install("lora") == f'pip install "{ROOT}[lora]"'
    assert install_plugin("ray") == f'pip install "{ROOT / "plugins/unillm-ray"}"'


@pytest.mark.usefixtures("copy")
def test_a_remedy_names_the_wheel_that_was_installed(recorded, tmp_path):
    wheel = tmp_path / "unillm_sdk-0.1.0-py3-none-any.whl"
    wheel.touch()
    recorded(distributions.CORE, url=wheel.as_uri())

    assert install("lora") == f'pip install "unillm-sdk[lora] @ {wheel.as_uri()}"'
    assert install_plugin("ray").startswith('pip install "./plugins/unillm-ray"  # in')


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("url", ["file:///gone/unillm", "https://host/unillm", None])
def test_a_remedy_names_the_folders_of_any_checkout_where_none_is_known(recorded, url):
    recorded(distributions.CORE, url=url)

    assert install("lora") == 'pip install ".[lora]"  # in a checkout of unillm'


def test_the_other_project_is_noticed_once(recorded):
    recorded("unillm", version="0.0.8")
    distributions.warn_of_foreign.cache_clear()

    with pytest.warns(UserWarning, match=r"unillm 0\.0\.8 is installed .* chat APIs"):
        backends()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends()
