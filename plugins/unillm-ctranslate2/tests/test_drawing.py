# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_drawing_on_the_page_is_what_a_run_of_today_gives(cache):
    """If not: python scripts/draw_runs.py docs/explanation/runs.svg."""
    spec = importlib.util.spec_from_file_location(
        "draw_runs", ROOT / "scripts/draw_runs.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.drawing() == (ROOT / "docs/explanation/runs.svg").read_text("utf-8")
