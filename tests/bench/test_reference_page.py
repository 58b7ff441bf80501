# SPDX-License-Identifier: Apache-2.0

"""The page about figures and checks lists those of the program."""

from __future__ import annotations

import re
from pathlib import Path

from unillm.bench.verdicts import CHECKS

PAGE = Path(__file__).parents[2] / "docs/reference/bench.md"


def test_the_page_lists_the_checks_in_their_order():
    section = PAGE.read_text("utf-8").split("## Checks")[1].split("\n## ")[0]
    listed = re.findall(r"^\| ([a-z ]+) \|", section, re.MULTILINE)

    assert listed[1:] == [each.__name__[1:].replace("_", " ") for each in CHECKS]
