# SPDX-License-Identifier: Apache-2.0

"""Every program in ``examples/`` runs and prints what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unillm

EXAMPLES = Path(__file__).parents[1] / "examples"
DAYS = "Tuesday Wednesday Thursday Friday Saturday Sunday Monday"
PRINTED = {
    "async_many.py": """\
sums: 2, 4, 6, 8, 10, 12, 14, 16
streamed in pieces: True
requests finished: 9
""",
    "batch_file.py": """\
{"text": "3 4 5 6 7 8 9"}
{"error": "PromptTooLongError"}
{"text": "42"}
{"error": "InvalidPromptError"}
""",
    "cancel_and_deadline.py": """\
cancelled; what had come is kept: True
too late; finish_reason: abort
the generator goes on: 42
""",
    "chat.py": """\
system: You are a helpful assistant.
user: Add 17 and 25:
assistant: 42
user: Count from 3 to 9:
assistant: 3 4 5 6 7 8 9
continued: 3 4 5 … 6 7 8 9
""",
    "cookbook/evaluate.py": """\
writes:  100%
prefers: 100%
of 5 questions
""",
    "cookbook/extract.py": """\
r0 sentiment, stars
r1 error
r2 sentiment, stars
3 records, 1 with an error
""",
    "cookbook/guard.py": """\
kept the tokens of 4 prompts
Count from 3 to 9: equal
Add 17 and 25: equal
Spell the word apple: equal
Repeat: a b: equal
""",
    "cookbook/long_document.py": """\
6290 characters in 5 parts
318 characters in 1 parts
the summary has a text: True
""",
    "cookbook/vote.py": """\
Add 17 and 25: 42 (9 of 9, sure)
Add 40 and 2: 42 (9 of 9, sure)
Add 8 and 9: 17 (9 of 9, sure)
""",
    "from_vllm.py": """\
Count from 3 to 9: 3 4 5 6 7 8 9
Add 17 and 25: 42
Spell the word apple: a p p l e
chat: 3 4 5 6 (stop 7)
""",
    "lora.py": """\
the model: 42
with the adapter: Hello from the adapter.
""",
    "memory.py": """\
weights: 3.1 MiB
cache: 4.0 MiB for 8 slots of 256 tokens
activations: 14.8 MiB in a step
64 slots take 159,191,552 bytes
in 64 MiB, with the others as they are: max_num_seqs=20
in 64 MiB, with the others as they are: max_model_len=320
""",
    "quickstart.py": f"""\
Count from 3 to 9: 3 4 5 6 7 8 9 (stop)
Add 17 and 25: 42 (stop)
Spell the word apple: a p p l e (stop)
chat: 42
{DAYS}
""",
    "streaming.py": """\
1 2 3 4 5 6 7 8 9 (stop)
1 2 3 4 (enough)
""",
    "structured_output.py": """\
keys of the object: grade, right
a time: True
a choice: True
refused: 1
""",
    "switch_backend.py": """\
'3 4 5 6 7 8 9' stop 506
'42' stop 506
'a p p l e' stop 506
'3 4 ' length None
'3 4 5 ' stop 6
'42' stop None
PromptTooLongError 600 511 512
This model's maximum context length is 512 tokens. The prompt has 600 tokens; at most \
511 fit, because one must be left to generate. Shorten the prompt, pass \
SamplingParams(truncate_prompt_tokens=511) to keep its end, or create the Generator \
with a larger max_model_len, which may be 1024 for this model.
""",
}
"""Name of each example to its whole standard output."""


def run(name, *args):
    source = str(Path(unillm.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", EXAMPLES / name, *args],
        # Programs that load a model by themselves get the warnings of transformers.
        env={
            **os.environ,
            "PYTHONPATH": source,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_example_is_known_here():
    paths = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("cookbook/*.py")]
    found = {path.relative_to(EXAMPLES).as_posix() for path in paths}

    assert found == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_an_example_prints_what_it_should(name):
    result = run(name)

    assert result.stdout == PRINTED[name]
    assert result.stderr == ""
    assert result.returncode == 0


def test_the_guard_exits_with_1_where_tokens_differ(tmp_path):
    golden = tmp_path / "golden.json"
    _, *lines = PRINTED["cookbook/guard.py"].splitlines()
    golden.write_text(json.dumps({line.removesuffix(" equal"): [1] for line in lines}))

    result = run("cookbook/guard.py", golden)

    assert "Add 17 and 25: differs at token 0\n" in result.stdout
    assert result.returncode == 1


def test_the_batch_takes_files(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "Add 20 and 22:"}\n')

    result = run("batch_file.py", source, target)

    assert result.returncode == 0
    assert target.read_text() == '{"text": "42"}\n'
