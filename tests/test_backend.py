# SPDX-License-Identifier: Apache-2.0

"""The face for authors of backends: complete, documented and light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import draw_backends
import draw_plugin_api
import pytest

from unillm import backend

NEEDS_TORCH = {"Choice", "Sampler", "check_tensors", "load_model"}
NEEDS_NUMPY = {"RequestSampler", "token_logprobs"}
LIGHT = sorted(set(backend.__all__) - NEEDS_TORCH - NEEDS_NUMPY)


def test_every_name_resolves_and_is_listed():
    assert [name for name in LIGHT if getattr(backend, name) is None] == []
    assert set(dir(backend)) == {*LIGHT, *NEEDS_TORCH, *NEEDS_NUMPY}


@pytest.mark.parametrize("name", sorted(NEEDS_TORCH))
def test_the_names_on_torch_resolve_where_torch_is_installed(name):
    pytest.importorskip("torch")

    assert callable(getattr(backend, name))


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(backend.__file__).read_text())
    seen = {
        alias.asname: f".{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    assert sorted(seen) == sorted(backend.__all__)
    assert {name: seen[name] for name in backend._LAZY} == backend._LAZY


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        _ = backend.Engin


def test_using_the_face_loads_no_torch_and_no_transformers():
    code = f"from unillm.backend import {', '.join(LIGHT)}"
    code += "; import sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "transformers", "tokenizers", "numpy"}


def test_the_page_has_every_name_as_it_is():
    page = draw_plugin_api.PAGE.read_text()
    names = [
        name for group in draw_plugin_api.GROUPS.values() for name in group.split()
    ]

    assert sorted(names) == sorted(backend.__all__)
    assert draw_plugin_api.text() in page, "run scripts/draw_plugin_api.py"
    assert f"`API_VERSION` is {backend.API_VERSION}." in page


def test_the_page_of_known_backends_has_their_runs():
    assert draw_backends.main(["--check"]) == 0, "run scripts/draw_backends.py"


def test_a_run_replaces_the_last_one_of_its_backend(tmp_path, monkeypatch):
    monkeypatch.setattr(draw_backends, "RECORDS", tmp_path / "backends.json")
    counts = dict.fromkeys(draw_backends.COUNTS, 0)
    clauses = [{"number": "R3", "outcome": "waived"}]
    run = {"backend": "mine", "distribution": "mine 1", "clauses": clauses}
    random = {"backend": "mine", "requests": 10, "tokens": 1200, "draws": 7}
    for passed in (1, 2):
        run["counts"] = counts | {"passed": passed, "waived": 1}
        draw_backends.add(run, "on a CPU")
        draw_backends.add(
            random | {"seed": passed, "conforms": passed == 1}, "on a CPU"
        )

    assert [line for line in draw_backends.text().splitlines() if "mine" in line] == [
        "| `mine` | 2 | 0 | 1 (R3) | 0 | 0 | on a CPU |",
        "| `mine` | 20 (seed 1, 2) | 2,400 | 14 | 1 | on a CPU |",
    ]
