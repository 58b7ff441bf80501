# SPDX-License-Identifier: Apache-2.0

"""Links of the pages lead to files and headings, as a code host reads them too."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("plugins/*/README.md"),
    *ROOT.glob("docs/**/*.md"),
]


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {each.replace(" ", "-") for each in words}


def is_there(page, link):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    own = [link for link in links if not link.startswith("http")]

    assert [link for link in own if not is_there(page, link)] == []
    # Sphinx writes the title of the page into an empty link, and a code host nothing.
    assert "[](" not in text


def test_a_missing_file_and_a_missing_heading_are_noticed():
    readme = ROOT / "README.md"

    assert is_there(readme, "docs/reference/contract.md#results")
    assert not is_there(readme, "docs/reference/contract.md#absent")
    assert not is_there(readme, "docs/absent.md")
