# SPDX-License-Identifier: Apache-2.0

"""Guard an upgrade: keep the greedy tokens of today, and compare them with tomorrow's.

    python guard.py golden.json --model Qwen/Qwen3-0.6B   # writes it the first time
    pip install --upgrade …
    python guard.py golden.json --model Qwen/Qwen3-0.6B   # 1 if they differ

A first difference whose two tokens are nearly equally probable, within `--tolerance`,
is a near tie: rounding decides between them, and it is counted but not an error.
`unillm compare` does the same for two engines that are installed side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from unillm import Generator, RequestOutput, SamplingParams

PROMPTS = [
    "Count from 3 to 9:",
    "Add 17 and 25:",
    "Spell the word apple:",
    "Repeat: a b:",
]
PARAMS = SamplingParams(temperature=0, max_tokens=64, logprobs=5)


def verdict(output: RequestOutput, golden: list[int], tolerance: float) -> str:
    """Return "equal", "near tie" or where the tokens differ."""
    completion = output.outputs[0]
    if completion.token_ids == golden:
        return "equal"
    pairs = zip(completion.token_ids, golden, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if at is None:
        return f"another length: {len(completion.token_ids)} and {len(golden)}"
    assert completion.logprobs is not None
    here = completion.logprobs[at]
    old = here.get(golden[at])
    if old and here[completion.token_ids[at]].logprob - old.logprob <= tolerance:
        return "near tie"
    return f"differs at token {at}"


def guard(golden: Path, model: str, tolerance: float) -> bool:
    """Write the golden file, or compare with it; return whether all is well."""
    with Generator(model) as generator:
        outputs = generator.generate(PROMPTS, PARAMS)
    if not golden.exists():
        found = {each.prompt: each.outputs[0].token_ids for each in outputs}
        golden.write_text(json.dumps(found), encoding="utf-8")
        print(f"kept the tokens of {len(found)} prompts")
        return True
    kept = json.loads(golden.read_text("utf-8"))
    verdicts = {
        each.prompt: verdict(each, kept[each.prompt], tolerance) for each in outputs
    }
    for prompt, word in verdicts.items():
        print(f"{prompt} {word}")
    return {*verdicts.values()} <= {"equal", "near tie"}


def main() -> None:
    """Guard with the file that was named; without one, write and compare once."""
    parser = argparse.ArgumentParser(description="Compare with kept tokens.")
    parser.add_argument("golden", type=Path, nargs="?")
    parser.add_argument("--model", default="unillm/tiny")
    parser.add_argument("--tolerance", type=float, default=0.05, help="in nats")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        golden = given.golden or Path(folder, "golden.json")
        well = guard(golden, given.model, given.tolerance)
        if given.golden is None:
            well = guard(golden, given.model, given.tolerance)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
