# SPDX-License-Identifier: Apache-2.0

"""LlamaIndex's `Vllm`."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.vllm import Vllm

llm = Vllm(
    model=sys.argv[1],
    dtype="float32",
    max_new_tokens=20,
    temperature=0.0,
    vllm_kwargs={"max_model_len": 128},
    messages_to_prompt=lambda messages: messages[-1].content,
)
try:
    complete = llm.complete("Count from 3 to 9:").text
    asked = [ChatMessage(role="user", content="Add 17 and 25:")]
    found = {"complete": complete, "chat": llm.chat(asked).message.content}
except TypeError as error:
    found = {"refused": f"TypeError: {error}"}
json.dump(found, sys.stdout)
