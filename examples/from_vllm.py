# SPDX-License-Identifier: Apache-2.0

"""A program written for vLLM: the import is all that was changed.

It prints the same with ``UNILLM_BACKEND=vllm`` and ``UNILLM_BACKEND=transformers``.
"""

from __future__ import annotations

from unillm import LLM, SamplingParams

PROMPTS = ["Count from 3 to 9:", "Add 17 and 25:", "Spell the word apple:"]


def main() -> None:
    """Generate, chat and change the defaults, as programs for vLLM do."""
    llm = LLM(
        model="unillm/tiny",
        dtype="float32",
        max_model_len=256,
        enforce_eager=True,
        kv_cache_memory_bytes=64 << 20,
    )

    greedy = SamplingParams(temperature=0.0, max_tokens=64)
    for output in llm.generate(PROMPTS, greedy, use_tqdm=False):
        print(f"{output.prompt} {output.outputs[0].text}")

    params = llm.get_default_sampling_params()
    params.stop = ["7"]
    conversation = [{"role": "user", "content": PROMPTS[0]}]
    [answer] = llm.chat(conversation, params, use_tqdm=False)
    completion = answer.outputs[0]
    print(
        f"chat: {completion.text}({completion.finish_reason} {completion.stop_reason})"
    )


if __name__ == "__main__":
    main()
