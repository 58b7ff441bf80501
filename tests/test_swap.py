# SPDX-License-Identifier: Apache-2.0

"""One program, unchanged, on every engine: the environment alone chooses the engine.

The sessions of the plugins run this, each with its own engine; a missing engine skips
its test. On the embedded engine `test_examples` runs the program. A fake of each
version family stands for TensorRT-LLM.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_examples import EXAMPLES, PRINTED

import unillm

DOUBLE = Path(__file__).parents[1] / "plugins/unillm-tensorrt-llm/tests/double"
VERSIONS = ["0.11", "0.21", "1.2", "1.3rc20", "1.4"]
ENGINES = [
    "ctranslate2",
    "vllm",
    *(f"tensorrt-llm {v}" for v in VERSIONS),
]


def why_missing(backend):
    """Return why a backend cannot run here; `None` if it can."""
    if backend == "tensorrt-llm":  # the fake stands for the engine, not for the plugin
        missing = find_spec("unillm_tensorrt_llm") is None
        return "its plugin is not installed" if missing else None
    [status] = [each for each in unillm.backends() if each.name == backend]
    return status.reason or None


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_program_prints_the_same_on_every_engine(engine, tmp_path):
    backend, _, version = engine.partition(" ")
    if reason := why_missing(backend):
        pytest.skip(f"{backend}: {reason}")
    path = [str(Path(unillm.__file__).parents[1])]
    if version:
        path.append(str(DOUBLE))

    result = subprocess.run(
        [sys.executable, EXAMPLES / "switch_backend.py"],
        env={
            **os.environ,
            "UNILLM_BACKEND": backend,
            "UNILLM_CACHE": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(path),
            "TRTLLM_DOUBLE_PROFILE": version,
            "TORCHDYNAMO_DISABLE": "1",  # vLLM starts sooner
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert result.stdout == PRINTED["switch_backend.py"], result.stderr
    assert result.returncode == 0
