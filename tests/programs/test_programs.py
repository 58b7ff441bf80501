# SPDX-License-Identifier: Apache-2.0

"""Programs of others that import ``vllm``, as they stand.

Each runs in a process of its own, on the backend that ``UNILLM_BACKEND`` names. The
session `programs` installs them; a program that is not installed is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unillm.backend import find_model

BACKEND = os.environ.get("UNILLM_BACKEND", "transformers")
NUMBERS = "3 4 5 6 7 8 9"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of the bundled model with room for the longest prompts of a program."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(find_model("unillm/tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def run(model):
    def run(name):
        library = {"langchain": "langchain_community", "trl": "trl.generation"}
        library |= {
            "llama_index": "llama_index.llms.vllm",
            "evalplus": "evalplus.provider",
        }
        try:
            found = importlib.util.find_spec(library.get(name, name))
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{name} is not installed")
        program = Path(__file__).with_name(f"program_{name}.py")
        done = subprocess.run(
            [sys.executable, "-m", "unillm.vllm_api", "run", str(program), model],
            env={**os.environ, "UNILLM_BACKEND": BACKEND, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_langchain(run):
    assert run("langchain") == {"one": NUMBERS, "batch": ["42", "3 4 5 6 "]}


def test_llama_index(run):
    if importlib.util.find_spec("vllm") is not None:
        refused = "TypeError: Unexpected keyword argument 'best_of'"
        assert run("llama_index")["refused"] == refused
        return
    assert run("llama_index") == {"complete": NUMBERS, "chat": "42"}


def test_outlines_with_each_kind_of_output_type(run):
    found = run("outlines")

    assert found == {
        "text": NUMBERS,
        "literal": "42",
        "int": "42",
        "regex": found["regex"],
        "grammar": "yes",
        "json": True,
        "batch": [[NUMBERS]],
    }
    assert len(found["regex"]) == 3
    assert set(found["regex"]) <= {"a", "b"}


def test_lm_eval_has_the_numbers_of_transformers(run):
    found = run("lm_eval")

    ours, theirs = found["unillm"], found["transformers"]
    for kind in ("chat", "generate_until"):
        assert ours[kind] == theirs[kind]
    for mine, its in zip(ours["loglikelihood"], theirs["loglikelihood"], strict=True):
        assert mine == [pytest.approx(its[0], rel=1e-5), its[1]]
    assert ours["loglikelihood_rolling"] == pytest.approx(
        theirs["loglikelihood_rolling"], rel=1e-5
    )


def test_evalplus(run):
    assert run("evalplus") == {"drawn": 2, "greedy": [NUMBERS]}


def test_trl_pushes_weights_into_its_engine_and_is_refused(run):
    refused = "ConfigError: "
    if importlib.util.find_spec("vllm") is None:
        refused = "ModuleNotFoundError: unillm has no module 'vllm.utils.network_utils'"
    elif BACKEND == "vllm":
        refused = "AttributeError: llm.llm_engine has no attribute 'model_executor': "

    assert run("trl")["refused"].startswith(refused)
