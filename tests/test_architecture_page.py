# SPDX-License-Identifier: Apache-2.0

"""The page that follows one request through ten files names what is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
WALK, _, _ = PAGE.read_text().partition("## The modules")
STEPS = re.findall(r"^\| \d+ \| `([\w/.]+)` \| (.+) \|$", WALK, re.MULTILINE)


def test_the_page_has_ten_files():
    assert len({file for file, _ in STEPS}) == 10


@pytest.mark.parametrize(("file", "text"), STEPS, ids=[file for file, _ in STEPS])
def test_the_first_name_of_a_step_is_defined_in_its_file(file, text):
    owner, _, method = re.search(r"`([\w.]+)`", text)[1].rpartition(".")
    source = (ROOT / "src" / "unillm" / file).read_text()

    assert re.search(rf"^ *(class|def|async def) {method}\b", source, re.MULTILINE)
    assert not owner or re.search(rf"^class {owner}\b", source, re.MULTILINE)
