# SPDX-License-Identifier: Apache-2.0

"""The page on families says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from unillm.embedded import families

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/families.md"


def window_of(family: str) -> str:
    if family in families.ONE_AT_A_TIME:
        return "one at a time"
    if family in families.WINDOW_ON_ALL:
        return "all layers"
    return "by layer" if family in families.WINDOW_BY_LAYER else ""


def served() -> list[str]:
    return [
        f"| {name} | `{family}` | {window_of(family)} |"
        for family, name in sorted(
            families.FAMILIES.items(), key=lambda item: item[1].casefold()
        )
    ]


def refused() -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for family, reason in sorted(families._KNOWN_REASONS.items()):
        by_reason.setdefault(reason, []).append(f"`{family}`")
    return [f"| {', '.join(names)} | {why} |" for why, names in by_reason.items()]


@pytest.mark.parametrize("rows", [served, refused])
def test_the_tables_of_the_page_are_those_of_the_code(rows):
    lines = PAGE.read_text().splitlines()
    first = lines.index(rows()[0])

    assert lines[first : first + len(rows()) + 1] == [*rows(), ""]


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_number_of_families_is_told_truthfully(page):
    assert f"{len(families.FAMILIES)} families" in (ROOT / page).read_text()


def test_no_family_is_both_served_and_refused():
    assert not set(families.FAMILIES) & set(families._KNOWN_REASONS)
