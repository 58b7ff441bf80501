# SPDX-License-Identifier: Apache-2.0

"""EvalPlus's decoder for vLLM, which creates samples for HumanEval+ and MBPP+."""

import json
import sys

from evalplus.provider.vllm import VllmDecoder

decoder = VllmDecoder(
    sys.argv[1],
    "humaneval",
    batch_size=2,
    temperature=0.8,
    max_new_tokens=20,
    dtype="float32",
    trust_remote_code=False,
    force_base_prompt=True,
)
drawn = decoder.codegen("Count from 3 to 9:", do_sample=True, num_samples=2)
decoder.temperature = 0
found = {
    "drawn": len(drawn),
    "greedy": decoder.codegen("Count from 3 to 9:", do_sample=False, num_samples=1),
}
json.dump(found, sys.stdout)
