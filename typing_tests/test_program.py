# SPDX-License-Identifier: Apache-2.0

"""A user's program under ``mypy --strict``, against the package as it is installed.

``public_surface.py`` has every public call; this shows that the types reach a program
that has no configuration for them.
"""

from __future__ import annotations

from pathlib import Path

from mypy import api

PROGRAM = """\
from collections.abc import Iterator

from unillm import Generator, RequestOutput, SamplingParams


def answers(generator: Generator, prompts: Iterator[str]) -> list[str]:
    params = SamplingParams(temperature=0, max_tokens=None, stop="a")
    outputs: list[RequestOutput] = generator.generate(["a", [1, 2]], params)
    outputs += generator.generate_iter(prompts)
    return [output.text for output in outputs]


def refused(generator: Generator) -> None:
    SamplingParams(temperature="hot")
    SamplingParams(max_tokens="5")
    SamplingParams(temprature=0.5)
    generator.generate(12345)
    generator.stream("a").text
    Generator("unillm/tiny", max_num_seqs="4")
"""

CONFIG = """\
[mypy]
[mypy-torch.*,transformers.*,numpy.*,huggingface_hub.*,peft.*]
follow_imports = skip
"""
"""Without their sources, which no public type needs, it takes a sixth of the time."""

REFUSED = [
    (14, "arg-type"),
    (15, "arg-type"),
    (16, "call-arg"),
    (17, "call-overload"),
    (18, "attr-defined"),
    (19, "arg-type"),
]


def test_a_program_gets_the_types_of_the_calls(tmp_path: Path) -> None:
    """What is right passes without a word, and each wrong line is named."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")

    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG, encoding="utf-8")

    options = ["--strict", "--no-pretty", f"--cache-dir={tmp_path / 'cache'}"]
    report, errors, _ = api.run([*options, "--config-file", str(config), str(program)])

    found = [line.split(":") for line in report.splitlines() if ": error:" in line]
    codes = [(int(parts[1]), parts[-1].split("[")[-1][:-1]) for parts in found]
    assert (codes, errors) == (REFUSED, "")
