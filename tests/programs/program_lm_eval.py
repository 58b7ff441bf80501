# SPDX-License-Identifier: Apache-2.0

"""lm-eval's class for vLLM, beside its class for transformers."""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.vllm_causallms import VLLM

CONTINUED = [
    ("Count from 3 to 9:", " 3 4 5 6"),
    ("Count from 3 to 9:", "3 4 5 6"),
    ("Spell the word apple:", " a p p l e"),
    ("", "hello world"),
]
COMPLETED = [
    ("Count from 3 to 9:", {"until": ["8"], "max_gen_toks": 20}),
    ("Add 17 and 25:", {"until": ["\n"], "max_gen_toks": 20, "do_sample": False}),
]
WORK = {
    "loglikelihood": CONTINUED,
    "loglikelihood_rolling": [("Count from 3 to 9: 3 4 5 6 7 8 9",)],
    "generate_until": COMPLETED,
}


def asked(kind, rows):
    return [
        Instance(request_type=kind, doc={}, arguments=row, idx=i, metadata=("t", i, 1))
        for i, row in enumerate(rows)
    ]


def answers(model):
    work = {
        kind: getattr(model, kind)(asked(kind, rows)) for kind, rows in WORK.items()
    }
    chat = [{"role": "user", "content": "Add 17 and 25:"}]
    return {**work, "chat": model.apply_chat_template(chat)}


common = {"pretrained": sys.argv[1], "dtype": "float32"}
found = {
    "unillm": answers(VLLM(**common, max_model_len=128, batch_size="auto")),
    "transformers": answers(HFLM(**common, max_length=128, device="cpu", batch_size=1)),
}
json.dump(found, sys.stdout)
