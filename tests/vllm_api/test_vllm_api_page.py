# SPDX-License-Identifier: Apache-2.0

"""The page about vLLM's offline API says what the code says.

``python tests/test_vllm_api_page.py`` writes the page's lists again.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs
import pytest

from unillm import CompletionOutput, RequestOutput, params
from unillm.vllm_api import engine_args, llm
from unillm.vllm_api import names as vllm_names

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "vllm-api.md"


def table(reasons):
    rows = [f"| `{name}` | {reasons[name]} |" for name in sorted(reasons)]
    return "\n".join(["| name | instead, or why |", "|---|---|", *rows])


def names(group):
    return (
        ", ".join(f"`{name}`" for name in sorted(group) if not name.startswith("_"))
        + "."
    )


LISTS = {
    "imports": table(vllm_names.NOT_HERE),
    "members": table(llm.NOT_HERE),
    "shared": names(engine_args.SHARED),
    "text": names(engine_args.TEXT),
    "effort": names(engine_args.EFFORT),
    "own": names(engine_args.OWN),
    "nowhere": table({name: why for name, (_, why) in engine_args.NOWHERE.items()}),
    "removed": table(engine_args.REMOVED),
    "params": table(params.NOT_HERE),
    "structured": table(params.NOT_IN_STRUCTURED_OUTPUTS),
}


def rewritten(page):
    def fill(found):
        return f"<!-- {found[1]} -->\n\n{LISTS[found[1]]}"

    return re.sub(r"<!-- (\w+) -->\n\n.*?(?=\n\n|\Z)", fill, page, flags=re.DOTALL)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_the_page_is_that_of_the_code(name):
    assert f"<!-- {name} -->\n\n{LISTS[name]}\n" in PAGE.read_text("utf-8")


def test_the_fields_that_the_page_denies_are_not_there():
    [denied] = re.findall(
        r"^`lora_request`, .*$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    of_request, of_completion = (
        set(re.findall(r"`([a-z_]+)`", part)) for part in denied.split(", nor are ")
    )

    assert not of_request & {field.name for field in attrs.fields(RequestOutput)}
    assert not of_completion & {field.name for field in attrs.fields(CompletionOutput)}


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
    sys.exit()
