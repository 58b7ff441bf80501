# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import draw_runs

PAGE = Path(__file__).parents[3] / "docs/explanation/runs.svg"


def test_the_drawing_on_the_page_equals_a_new_recording(cache):
    """Renew it with: python scripts/draw_runs.py docs/explanation/runs.svg."""
    assert draw_runs.drawing() == PAGE.read_text("utf-8")
