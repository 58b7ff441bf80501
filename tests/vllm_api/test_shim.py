# SPDX-License-Identifier: Apache-2.0

"""Programs that import ``vllm``, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is not None,
    reason="vLLM is installed; the plugin's tests run the programs on it",
)

PROGRAM = """
import importlib.metadata, importlib.util, sys
from vllm import LLM, SamplingParams, TokensPrompt, __version__
from vllm.entrypoints.llm import LLM as SameLLM
from vllm.lora.request import LoRARequest
from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams
import vllm, vllm.logprobs

assert importlib.util.find_spec("vllm") is not None
assert importlib.metadata.version("vllm") == __version__ == "0.32.0"
assert LLM is SameLLM is vllm.LLM
assert vllm.sampling_params.SamplingParams is SamplingParams
if __name__ == "__main__":
    llm = LLM("unillm/tiny", max_model_len=128)
    [output] = llm.generate(sys.argv[1], SamplingParams(temperature=0), use_tqdm=False)
    assert isinstance(output, vllm.RequestOutput)
    print(output.outputs[0].text, llm.llm_engine.model_config.max_model_len)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "UNILLM_BACKEND": "transformers"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_code(code):
    done = run("-c", f"import unillm.vllm_api\nunillm.vllm_api.install()\n{code}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_for_vllm_runs_as_it_stands(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("")

    done = run("-m", "unillm.vllm_api", "run", str(program), "Count from 3 to 9:")

    assert (done.stdout, done.stderr) == ("3 4 5 6 7 8 9 128\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Got: no arguments"),
        (["walk", "program.py"], "Got: walk program.py"),
        (["run", "no-such.py"], "There is no file 'no-such.py'"),
    ],
)
def test_a_wrong_command_line_is_an_error_that_shows_the_right_one(arguments, message):
    done = run("-m", "unillm.vllm_api", *arguments)

    assert done.returncode == 1
    assert message in done.stderr


def test_help_shows_how_to_run_a_program():
    assert run("-m", "unillm.vllm_api", "--help").stdout.startswith("usage: python -m")


def test_a_name_that_unillm_lacks_is_an_import_error_with_the_reason():
    shown = run_code(
        "for line in ('from vllm import AsyncLLMEngine',\n"
        "    'from vllm.sampling_params import GuidedDecodingParams',\n"
        "    'import vllm.platforms', 'import vllm.engine_args',\n"
        "    'from vllm import Nothing', 'import vllm.v1.sample.logits_processor'):\n"
        "    try: exec(line)\n"
        "    except ImportError as error: print(type(error).__name__, error)"
    )

    lines = shown.splitlines()
    assert lines[0].startswith("ImportError unillm.vllm_api has no AsyncLLMEngine: use")
    assert "vLLM renamed it; use StructuredOutputsParams" in lines[1]
    assert lines[2].startswith("ModuleNotFoundError unillm has no module 'vllm.plat")
    assert lines[2].endswith("each backend uses those that are there.")
    assert lines[3].startswith("ModuleNotFoundError unillm has no module 'vllm.engi")
    assert "lists the modules that it has" in lines[3]
    assert lines[4].startswith("ImportError cannot import name 'Nothing' from 'vllm'")
    assert "would run between the engine's steps; use logit_bias" in lines[5]


def test_installing_is_quick_and_twice_is_once():
    shown = run_code(
        "import sys; unillm.vllm_api.install(); import vllm\n"
        "print(sum('_Finder' in repr(each) for each in sys.meta_path),"
        " *sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )

    assert shown == "1\n"
