# SPDX-License-Identifier: Apache-2.0

"""A program for vLLM that prints its answers as JSON, on `vllm` and on `unillm`.

``python tests/dropin/vllm_program.py vllm MODEL > tests/dropin/vllm_answers.json``
records the answers of real vLLM. The program imports unillm only if an argument names
it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from importlib import import_module

COUNT = "Count from 3 to 9:"
ADD = "Add 17 and 25:"
UNSURE = "qwerty zxc %%"
SPELL = {"role": "user", "content": "Spell the word apple:"}
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 256,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
}

GENERATED = {
    "defaults": (COUNT, None),
    "explicit params": (COUNT, {"temperature": 0, "max_tokens": 40}),
    "no params' own length": (COUNT, {"temperature": 0}),
    "several prompts": ([COUNT, ADD, UNSURE], {"temperature": 0, "max_tokens": 30}),
    "token ids": ({"prompt_token_ids": [505, 297, 220, 25]}, {"temperature": 0}),
    "a list of ids": ([505, 297, 220, 25], {"temperature": 0}),
    "ids and text": (
        {"prompt": "echo", "prompt_token_ids": [505, 297, 220, 25]},
        {"temperature": 0},
    ),
    "stop": (COUNT, {"temperature": 0, "max_tokens": 40, "stop": "7"}),
    "stop kept": (
        COUNT,
        {
            "temperature": 0,
            "max_tokens": 40,
            "stop": ["5 6", "8"],
            "include_stop_str_in_output": True,
        },
    ),
    "stop over tokens": (
        COUNT,
        {"temperature": 0, "max_tokens": 40, "stop": ["6 7 8"]},
    ),
    "stop id": (COUNT, {"temperature": 0, "stop_token_ids": [20, 21]}),
    "stop id kept": (
        COUNT,
        {
            "temperature": 0,
            "stop_token_ids": [20],
            "include_stop_str_in_output": True,
        },
    ),
    "ignore_eos": (COUNT, {"temperature": 0, "max_tokens": 30, "ignore_eos": True}),
    "special tokens": (
        COUNT,
        {
            "temperature": 0,
            "max_tokens": 30,
            "ignore_eos": True,
            "skip_special_tokens": False,
        },
    ),
    "min_tokens": (COUNT, {"temperature": 0, "min_tokens": 20, "max_tokens": 40}),
    "to the end of the context": (
        COUNT,
        {"temperature": 0, "max_tokens": None, "ignore_eos": True},
    ),
    "penalties": (
        COUNT,
        {
            "temperature": 0,
            "max_tokens": 20,
            "repetition_penalty": 1.3,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.5,
        },
    ),
    "logprobs": (COUNT, {"temperature": 0, "max_tokens": 6, "logprobs": 3}),
    "logprobs of the chosen": (UNSURE, {"temperature": 0, "logprobs": 0}),
    "prompt logprobs": (
        COUNT,
        {"temperature": 0, "max_tokens": 2, "prompt_logprobs": 2},
    ),
    "flat logprobs": (
        COUNT,
        {
            "temperature": 0,
            "max_tokens": 3,
            "logprobs": 2,
            "prompt_logprobs": 1,
            "flat_logprobs": True,
        },
    ),
    "no text": (
        COUNT,
        {"temperature": 0, "max_tokens": 6, "detokenize": False, "logprobs": 1},
    ),
    "bias": (COUNT, {"temperature": 0, "max_tokens": 6, "logit_bias": {20: 100}}),
    "allowed ids": (
        COUNT,
        {"temperature": 0, "max_tokens": 6, "allowed_token_ids": [18, 20, 220]},
    ),
    "bad words": (COUNT, {"temperature": 0, "max_tokens": 12, "bad_words": ["4"]}),
}
CHATS = {
    "chat": ([SPELL], None),
    "chats": (
        [
            [SPELL],
            [{"role": "system", "content": "You are a helpful assistant."}, SPELL],
        ],
        {"temperature": 0, "max_tokens": 30},
    ),
    "chat of parts": (
        [{"role": "user", "content": [{"type": "text", "text": "Add 17 and 25:"}]}],
        {"temperature": 0, "max_tokens": 30},
    ),
}


def answers(llm, SamplingParams):
    """Run the program with the classes of one library and return JSON values."""

    def params(given):
        return None if given is None else SamplingParams(**given)

    outputs = {}
    for name, (prompts, given) in GENERATED.items():
        outputs[name] = llm.generate(prompts, params(given), use_tqdm=False)
    for name, (messages, given) in CHATS.items():
        outputs[name] = llm.chat(messages, params(given), use_tqdm=False)
    return {
        name: [_request(each) for each in listed] for name, listed in outputs.items()
    }


def _request(output):
    return {
        "prompt": output.prompt,
        "prompt_token_ids": list(output.prompt_token_ids),
        "prompt_logprobs": _positions(output.prompt_logprobs),
        "finished": output.finished,
        "outputs": [_completion(each) for each in output.outputs],
    }


def _completion(completion):
    return {
        "index": completion.index,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "cumulative_logprob": completion.cumulative_logprob,
        "logprobs": _positions(completion.logprobs),
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        "finished": completion.finished(),
    }


def _positions(logprobs):
    if logprobs is None:
        return None
    return [
        None
        if entries is None
        else [
            [token_id, entry.logprob, entry.rank, entry.decoded_token]
            for token_id, entry in entries.items()
        ]
        for entries in logprobs
    ]


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    module, model = sys.argv[1:]
    library = import_module(module)
    with redirect_stdout(sys.stderr):
        found = answers(library.LLM(model, **OPTIONS), library.SamplingParams)
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in found.items()]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
