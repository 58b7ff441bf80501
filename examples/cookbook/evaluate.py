# SPDX-License-Identifier: Apache-2.0

"""Score a model on questions of your own, by what it writes and by what it prefers.

    python evaluate.py questions.jsonl --model Qwen/Qwen3-0.6B --backend vllm

A line has `question`, `choices` and `answer`, the index of the right one. "Writes" is
the share of greedy completions that begin with the right choice. "Prefers" is the share
of questions whose right choice has the highest log-probability as the continuation of
the question, as in multiple-choice tasks of lm-eval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from unillm import Generator, SamplingParams


class Question(NamedTuple):
    """A question, its choices, and the index of the right one."""

    question: str
    choices: list[str]
    answer: int


SAMPLE = [
    Question(f"Add {a} and {b}:", [str(a + b + 1), str(a + b), str(a * b)], 1)
    for a, b in ((17, 25), (3, 4), (10, 11), (40, 2), (8, 9))
]


def share_written(generator: Generator, questions: list[Question]) -> float:
    """Return the share of greedy completions that begin with the right choice."""
    greedy = SamplingParams(temperature=0, max_tokens=20)
    outputs = generator.generate([each.question for each in questions], greedy)
    right = [
        output.text.strip().startswith(each.choices[each.answer])
        for each, output in zip(questions, outputs, strict=True)
    ]
    return sum(right) / len(right)


def share_preferred(generator: Generator, questions: list[Question]) -> float:
    """Return the share of questions whose right choice is the most probable one."""
    encode = generator.get_tokenizer().encode
    begins = [encode(each.question) for each in questions]
    prompts = [
        begin + encode(choice, add_special_tokens=False)
        for each, begin in zip(questions, begins, strict=True)
        for choice in each.choices
    ]
    scored = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    outputs = iter(generator.generate(prompts, scored))
    right = 0
    for each, begin in zip(questions, begins, strict=True):
        scores = []
        for _ in each.choices:
            output = next(outputs)
            assert output.prompt_logprobs is not None
            ids = output.prompt_token_ids[len(begin) :]
            found = output.prompt_logprobs[len(begin) :]
            scores.append(
                sum(at[i].logprob for i, at in zip(ids, found, strict=True) if at)
            )
        right += scores.index(max(scores)) == each.answer
    return right / len(questions)


def main() -> None:
    """Score the questions of a file, or a sample that the bundled model can answer."""
    parser = argparse.ArgumentParser(description="Score a model.")
    parser.add_argument("questions", type=Path, nargs="?")
    parser.add_argument("--model", default="unillm/tiny")
    parser.add_argument("--backend", default="auto")
    given = parser.parse_args()
    questions = SAMPLE
    if given.questions is not None:
        lines = given.questions.read_text("utf-8").splitlines()
        questions = [Question(**json.loads(line)) for line in lines]
    with Generator(given.model, backend=given.backend) as generator:
        print(f"writes:  {share_written(generator, questions):.0%}")
        print(f"prefers: {share_preferred(generator, questions):.0%}")
    print(f"of {len(questions)} questions")


if __name__ == "__main__":
    main()
