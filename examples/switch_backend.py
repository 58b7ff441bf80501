# SPDX-License-Identifier: Apache-2.0

"""One program for every engine: the environment alone says which one runs it.

::

    python examples/switch_backend.py
    UNILLM_BACKEND=vllm python examples/switch_backend.py
    UNILLM_BACKEND=tensorrt-llm python examples/switch_backend.py

It prints the same each time.
"""

from __future__ import annotations

from unillm import Generator, SamplingParams
from unillm.errors import PromptTooLongError

PROMPTS = ["Count from 3 to 9:", "Add 17 and 25:", "Spell the word apple:"]


def main() -> None:
    """Ask for text, a length, a stop string and a chat; then for too much."""
    greedy = SamplingParams(temperature=0, max_tokens=64)
    short = SamplingParams(temperature=0, max_tokens=4)
    until_six = SamplingParams(temperature=0, max_tokens=64, stop="6")

    with Generator(
        "unillm/tiny", dtype="float32", max_model_len=512, enforce_eager=True
    ) as generator:
        outputs = generator.generate(PROMPTS, greedy)
        outputs += generator.generate(PROMPTS[:1], short)
        outputs += generator.generate(PROMPTS[:1], until_six)
        conversation = [{"role": "user", "content": "Add 20 and 22:"}]
        outputs += generator.chat(conversation, greedy)
        for output in outputs:
            completion = output.outputs[0]
            print(repr(output.text), completion.finish_reason, completion.stop_reason)

        try:
            generator.generate([[1] * 600], greedy)
        except PromptTooLongError as error:
            limits = (error.max_prompt_tokens, error.max_model_len)
            print(type(error).__name__, error.prompt_tokens, *limits)
            print(error)


if __name__ == "__main__":
    main()
