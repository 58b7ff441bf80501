# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import draw_runs
import pytest

PAGES = Path(__file__).parents[3] / "docs/explanation"


@pytest.mark.parametrize("name", draw_runs.DRAWINGS)
def test_a_drawing_on_the_page_equals_a_new_recording(name, cache):
    """Renew them with: python scripts/draw_runs.py docs/explanation."""
    assert draw_runs.DRAWINGS[name]() == (PAGES / name).read_text("utf-8")
