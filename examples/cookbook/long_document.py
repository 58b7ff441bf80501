# SPDX-License-Identifier: Apache-2.0

"""Summarise a document that is longer than the context, part by part.

    python long_document.py report.txt --model Qwen/Qwen3-0.6B

The document is cut into parts that fit the context by count of tokens; all parts are
answered together, and their answers, joined, are the next document, until one part
holds it. The bundled model, which the sample uses, cannot summarise: it shows the way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unillm import Generator, SamplingParams

PROMPT = "Summarise this in at most two sentences:\n{}\nSummary:"
SUMMARY_TOKENS = 40


def parts_of(generator: Generator, text: str) -> list[str]:
    """Cut a text into parts that fit the context with the prompt and a summary."""
    tokenizer = generator.get_tokenizer()
    around = len(tokenizer.encode(PROMPT.format("")))
    room = generator.limits.max_model_len - around - SUMMARY_TOKENS - 8
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return [
        tokenizer.decode(ids[start : start + room])
        for start in range(0, len(ids), room)
    ]


def summarise(generator: Generator, text: str) -> str:
    """Return the summary of a text of any length."""
    params = SamplingParams(temperature=0, max_tokens=SUMMARY_TOKENS)
    while True:
        parts = parts_of(generator, text)
        print(f"{len(text)} characters in {len(parts)} parts")
        prompts = [PROMPT.format(part) for part in parts]
        outputs = generator.generate(prompts, params)
        text = "\n".join(output.text.strip() for output in outputs)
        if len(parts) == 1:
            return text


def main() -> None:
    """Summarise a file, or a sample of numbered lines."""
    parser = argparse.ArgumentParser(description="Summarise a long document.")
    parser.add_argument("document", type=Path, nargs="?")
    parser.add_argument("--model", default="unillm/tiny")
    parser.add_argument("--max-model-len", type=int)
    given = parser.parse_args()
    sample = "".join(f"Line {n} says that all is well.\n" for n in range(200))
    document = given.document.read_text("utf-8") if given.document else sample
    with Generator(given.model, max_model_len=given.max_model_len) as generator:
        summary = summarise(generator, document)
    print("summary:" if given.document else "the summary has a text:", end=" ")
    print(summary if given.document else bool(summary))


if __name__ == "__main__":
    main()
