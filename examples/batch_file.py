# SPDX-License-Identifier: Apache-2.0

"""Answer a file of prompts: JSON lines in, JSON lines out, a bad one fails alone.

    python batch_file.py prompts.jsonl answers.jsonl

Without arguments it makes a small file and shows the answers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from unillm import Generator, SamplingParams

PROMPTS = ["Count from 3 to 9:", "word " * 5000, "Add 17 and 25:", ""]


def answer_file(source: Path, target: Path) -> None:
    """Write one line of *target* for each line of *source*, in its order."""
    with source.open(encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    with Generator("unillm/tiny") as generator:
        outputs = generator.generate(
            prompts,
            SamplingParams(temperature=0, max_tokens=100),
            on_error="return",
        )
    with target.open("w", encoding="utf-8") as answers:
        for output in outputs:
            if isinstance(output, Exception):
                answer = {"error": type(output).__name__}
            else:
                answer = {"text": output.text}
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")


def main() -> None:
    """Answer the file that was named, or an example."""
    if len(sys.argv) > 1:
        answer_file(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "prompts.jsonl"), Path(folder, "answers.jsonl")
        source.write_text(
            "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS),
            encoding="utf-8",
        )
        answer_file(source, target)
        print(target.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
