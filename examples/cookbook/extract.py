# SPDX-License-Identifier: Apache-2.0

"""Turn a file of texts into records of a fixed form, each checked, each with its id.

    python extract.py texts.jsonl records.jsonl --model Qwen/Qwen3-0.6B

A line of the input has `id` and `text`. A line that cannot be answered gets its error,
and the others go on. Without arguments the program makes a small file, answers it with
the bundled model, which knows no texts but keeps to the form, and shows the result.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from unillm import Generator, SamplingParams, StructuredOutputs

SCHEMA = {
    "type": "object",
    "properties": {
        "sentiment": {"enum": ["good", "bad", "neither"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["sentiment", "stars"],
    "additionalProperties": False,
}
PROMPT = "How does this review sound, and how many of five stars does it give?\n{}\n"
SAMPLE = ["The soup was cold.", "word " * 5000, "We will come again!"]


def extract(source: Path, target: Path, model: str) -> int:
    """Write a record for each line of *source*; return how many have an error."""
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    params = SamplingParams(
        temperature=0,
        max_tokens=60,
        structured_outputs=StructuredOutputs(json=SCHEMA, disable_any_whitespace=True),
    )
    with Generator(model) as generator:
        outputs = generator.generate(
            [PROMPT.format(row["text"]) for row in rows], params, on_error="return"
        )
    records: list[dict[str, Any]] = []
    for row, output in zip(rows, outputs, strict=True):
        if isinstance(output, Exception):
            records.append({"id": row["id"], "error": type(output).__name__})
        else:
            records.append({"id": row["id"], **json.loads(output.text)})
    with target.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    return sum("error" in record for record in records)


def main() -> None:
    """Extract from the files that were named, or from a sample."""
    parser = argparse.ArgumentParser(description="Texts to records.")
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("--model", default="unillm/tiny")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = given.source or Path(folder, "texts.jsonl")
        target = given.target or Path(folder, "records.jsonl")
        if given.source is None:
            rows = [{"id": f"r{n}", "text": text} for n, text in enumerate(SAMPLE)]
            source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        failed = extract(source, target, given.model)
        records = [json.loads(line) for line in target.read_text().splitlines()]
    for record in records[:5]:
        print(record["id"], ", ".join(sorted(record.keys() - {"id"})))
    print(f"{len(records)} records, {failed} with an error")


if __name__ == "__main__":
    main()
