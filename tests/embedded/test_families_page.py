# SPDX-License-Identifier: Apache-2.0

"""The page on families agrees with the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from unillm.embedded.families import FAMILIES, REFUSED

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/families.md"


def served() -> list[str]:
    by_name = sorted(FAMILIES.items(), key=lambda item: item[1].name.casefold())
    return [
        f"| {family.name} | `{model_type}` | "
        f"{'one at a time' if family.one_at_a_time else family.window} |"
        for model_type, family in by_name
    ]


def refused() -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for model_type, reason in sorted(REFUSED.items()):
        by_reason.setdefault(reason, []).append(f"`{model_type}`")
    return [f"| {', '.join(names)} | {why} |" for why, names in by_reason.items()]


@pytest.mark.parametrize("rows", [served, refused])
def test_the_tables_of_the_page_are_those_of_the_code(rows):
    lines = PAGE.read_text().splitlines()
    first = lines.index(rows()[0])

    assert lines[first : first + len(rows()) + 1] == [*rows(), ""]


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_number_of_families_is_right(page):
    assert f"{len(FAMILIES)} families" in (ROOT / page).read_text()


def test_no_family_is_both_served_and_refused():
    assert not set(FAMILIES) & set(REFUSED)
