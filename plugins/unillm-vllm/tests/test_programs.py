# SPDX-License-Identifier: Apache-2.0

"""Programs for vLLM where vLLM is installed: its objects, `install`, its engine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from vllm import SamplingParams as VllmParams
from vllm import TokensPrompt
from vllm.lora.request import LoRARequest as VllmLoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.sampling_params import StructuredOutputsParams as VllmStructuredOutputs

from unillm import LoRARequest, SamplingParams
from unillm.backend import find_model
from unillm.vllm_api.foreign import taken_adapters, taken_params

MODEL = str(find_model("unillm/tiny"))

PROGRAM = """
import sys
from importlib.metadata import version
import vllm
from vllm import LLM, EngineArgs, SamplingParams, TokensPrompt
from vllm.entrypoints.llm import LLM as SameLLM
from vllm.sampling_params import BeamSearchParams

if __name__ == "__main__":
    assert LLM is SameLLM
    assert version("vllm") == vllm.__version__
    args = EngineArgs(sys.argv[1], max_model_len=128, enforce_eager=True)
    args.kv_cache_memory_bytes = 64 << 20
    llm = LLM(**vars(args))
    prompts = ["Count from 3 to 9:", TokensPrompt(prompt_token_ids=[5, 6, 7])]
    params = [SamplingParams(temperature=0), SamplingParams(max_tokens=2)]
    [first, second] = llm.generate(prompts, params, use_tqdm=False)
    [found] = llm.beam_search(prompts[:1], BeamSearchParams(beam_width=2, max_tokens=9))
    llm.llm_engine.add_request("a", prompts[0], params[0])
    while llm.llm_engine.has_unfinished_requests():
        [step] = llm.llm_engine.step()
    print(llm.generator.backend, str(llm.model_config.dtype), sep="|")
    texts = (first.text, found.sequences[0].text, step.text)
    print(*texts, len(second.token_ids), sep="|")
"""


def test_a_program_for_vllm_runs_as_it_stands(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    done = subprocess.run(
        [sys.executable, "-m", "unillm.vllm_api", "run", str(program), MODEL],
        env={**os.environ, "UNILLM_BACKEND": "vllm"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-2:] == [
        "vllm|torch.bfloat16",
        "3 4 5 6 7 8 9|Count from 3 to 9:3 4 5 6 7|3 4 5 6 7 8 9|2",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0, "stop": "x", "max_tokens": None, "logprobs": True},
        {"stop_token_ids": [3], "bad_words": ["a"], "logit_bias": {3: 1.5}, "seed": 5},
        {"prompt_logprobs": 1, "max_tokens": 1},
        {"logprob_token_ids": [7, 5], "flat_logprobs": True},
        {"extra_args": {"target": 5}},
    ],
)
def test_params_of_vllm_are_taken(fields):
    assert taken_params(VllmParams(**fields)) == SamplingParams(**fields)
    assert taken_params([VllmParams(**fields)]) == [SamplingParams(**fields)]


def test_params_of_vllm_with_a_structure_are_taken():
    params = VllmParams(
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=VllmStructuredOutputs(json={"type": "object"}),
    )

    expected = SamplingParams(structured_outputs={"json": {"type": "object"}})
    assert taken_params(params) == expected


def test_a_field_of_vllm_that_matters_stays_refused():
    with pytest.raises(TypeError, match="no argument 'thinking_token_budget'"):
        taken_params(VllmParams(thinking_token_budget=5))
    with pytest.raises(TypeError, match="no argument 'load_inplace'"):
        taken_adapters(VllmLoRARequest("a", 1, "/a", load_inplace=True))


def test_adapters_and_prompts_of_vllm_are_taken():
    adapter, own = VllmLoRARequest("a", 1, "/a"), LoRARequest("a", 1, "/a")

    assert taken_adapters(adapter) == own
    assert taken_adapters([adapter, None, own]) == [own, None, own]
    assert TokensPrompt(prompt_token_ids=[3]) == {"prompt_token_ids": [3]}
