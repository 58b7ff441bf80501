# SPDX-License-Identifier: Apache-2.0

"""Modules that `import unillm` loads, and the public names."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import unillm

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "tokenizers",
    "sentencepiece",
    "huggingface_hub",
    "safetensors",
    "tqdm",
    "typer",
    "rich",
    "asyncio",
    "argparse",
    "importlib.metadata",
}


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    # -I ignores the user's site-packages and environment, which load modules too.
    run = subprocess.run(
        [sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import unillm",
        "import unillm; unillm.SamplingParams(n=2); unillm.RequestOutput",
    ],
    ids=["import", "values"],
)
def test_importing_loads_nothing_heavy(code):
    heavy = HEAVY & (loaded_by(code) - loaded_by("pass"))

    assert heavy == set()


@pytest.mark.parametrize(
    "code",
    [
        "from unillm import Generator",
        "from unillm import LLM",
        "import unillm; unillm.backends()",
    ],
    ids=["Generator", "LLM", "backends()"],
)
def test_no_engine_is_loaded_before_a_model_is(code):
    loaded = loaded_by(code)

    assert loaded & {"torch", "transformers", "numpy", "tokenizers"} == set()


@pytest.mark.parametrize("name", unillm.__all__)
def test_every_public_name_resolves(name):
    assert getattr(unillm, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(unillm.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = {
        alias.asname
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert set(unillm.__all__) - {"__version__"} == names


@pytest.mark.parametrize(
    "name", sorted(set(unillm.__all__) - {"errors", "PromptType", "__version__"})
)
def test_a_public_name_belongs_to_unillm(name):
    value = getattr(unillm, name)

    assert inspect.getmodule(value).__name__.startswith("unillm")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Generater'"):
        _ = unillm.Generater


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert version("unillm-sdk") == unillm.__version__


def test_a_public_name_stays_itself_when_submodules_are_loaded():
    first = [status.name for status in unillm.backends()]

    assert first == [status.name for status in unillm.backends()]
    assert callable(unillm.backends)
