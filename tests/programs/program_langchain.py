# SPDX-License-Identifier: Apache-2.0

"""LangChain's `VLLM`, as its documentation uses it."""

import json
import sys

from langchain_community.llms import VLLM

llm = VLLM(
    model=sys.argv[1],
    trust_remote_code=False,
    max_new_tokens=20,
    temperature=0,
    vllm_kwargs={"max_model_len": 128, "revision": "main"},
)
found = {
    "one": llm.invoke("Count from 3 to 9:"),
    "batch": llm.batch(["Add 17 and 25:", "Count from 3 to 9:"], stop=["7"]),
}
json.dump(found, sys.stdout)
