# SPDX-License-Identifier: Apache-2.0

"""The pages about the server name flags, paths, fields and codes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from unillm.cli.app import app
from unillm.protocol import errors, openapi

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("how-to/serve.md", "how-to/deploy.md", "how-to/from-vllm-serve.md")
FILES = ("deploy/unillm.service", "deploy/Dockerfile", "deploy/nginx.conf")
OTHERS = {"--time"}
"""Flags of docker."""


def flags():
    serve = typer.main.get_command(app).commands["serve"]
    return {flag for parameter in serve.params for flag in parameter.opts}


def unillms_part(page, text):
    """The text without commands of benchmarks and the column of another server."""
    text = re.sub(r"`python benchmarks/[^`]*`", "", text)
    if "from-vllm-serve" not in page:
        return text
    return "\n".join(line.split("|")[-2] for line in text.splitlines() if "|" in line)


@pytest.mark.parametrize("page", [*PAGES, *FILES])
def test_each_flag_of_a_page_exists(page):
    text = unillms_part(page, (DOCS / page).read_text("utf-8"))

    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text))
    assert named - OTHERS - {"--no-cache-dir", "--create-home"} <= flags()


def test_each_flag_that_is_called_the_same_exists():
    text = (DOCS / "how-to/from-vllm-serve.md").read_text("utf-8")

    same = [line for line in text.splitlines() if re.search(r"\| the same\b", line)]
    named = {flag for line in same for flag in re.findall(r"`(--[a-z-]+)", line)}
    assert len(named) > 20
    assert named <= flags()


def test_each_path_of_the_page_is_served():
    text = (DOCS / "how-to/serve.md").read_text("utf-8")
    section = text.split("## Endpoints")[1].split("\n## ")[0]

    named = set(re.findall(r"`(/[a-z0-9_./]*)`", section))
    served = {each.path for each in openapi.ENDPOINTS}
    assert named == served - {"/v1/models/{name}", "/page/{name}", "/activity"}


def test_each_code_of_an_error_is_on_the_page():
    text = (DOCS / "how-to/serve.md").read_text("utf-8")
    source = Path(errors.__file__).read_text("utf-8")
    codes = set(re.findall(r'(?:code=|_final\(\d+, |_later\()"([a-z_]+)"', source))

    shown = set(re.findall(r"`([a-z_]+)`", text.split("## Errors")[1]))
    assert codes - {"cancelled", "internal"} <= shown
