# SPDX-License-Identifier: Apache-2.0

"""Let a model answer several times, and take the answer that most samples agree on.

    python vote.py "Add 17 and 25:" --samples 16 --model Qwen/Qwen3-0.6B

Each question is one request with `n` completions, so an engine computes its prompt
once. A vote that is close says that the model is unsure.
"""

from __future__ import annotations

import argparse
from collections import Counter

from unillm import Generator, RequestOutput, SamplingParams

SAMPLE = ["Add 17 and 25:", "Add 40 and 2:", "Add 8 and 9:"]


def count(output: RequestOutput) -> Counter[str]:
    """Count the completions by text, without those that were cut off."""
    return Counter(
        each.text.strip() for each in output.outputs if each.finish_reason == "stop"
    )


def main() -> None:
    """Vote on the questions of the command line, or on a sample."""
    parser = argparse.ArgumentParser(description="Majority of several answers.")
    parser.add_argument("questions", nargs="*", default=SAMPLE)
    parser.add_argument("--samples", type=int, default=9)
    parser.add_argument("--model", default="unillm/tiny")
    given = parser.parse_args()
    params = SamplingParams(n=given.samples, temperature=1.0, seed=1, max_tokens=30)
    with Generator(given.model) as generator:
        for output in generator.generate(given.questions, params):
            votes = count(output)
            answer, most = votes.most_common(1)[0] if votes else ("no answer", 0)
            share = most / given.samples
            sure = "sure" if share > 0.5 else "unsure"
            print(f"{output.prompt} {answer} ({most} of {given.samples}, {sure})")


if __name__ == "__main__":
    main()
