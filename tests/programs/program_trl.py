# SPDX-License-Identifier: Apache-2.0

"""TRL's generation inside a training process, which pushes weights into the engine."""

import json
import sys

from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
found = {}
try:
    from trl.generation.vllm_generation import VLLMGeneration

    VLLMGeneration(model, Accelerator(), tokenizer, max_model_length=128).sync_weights()
except Exception as error:  # noqa: BLE001 - the test reads which
    found = {"refused": f"{type(error).__name__}: {error}"}
json.dump(found, sys.stdout)
