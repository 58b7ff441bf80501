# SPDX-License-Identifier: Apache-2.0

"""The lists of ``docs/reference/vllm-api.md`` are those of the code.

``python tests/vllm_api/test_vllm_api_page.py`` writes the lists again.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from unillm import CompletionOutput, RequestOutput, vllm_api
from unillm.params import UNAVAILABLE_FIELDS
from unillm.structured_outputs import UNAVAILABLE_CONSTRAINTS
from unillm.vllm_api import shim
from unillm.vllm_api.engine_args import (
    GENERATOR_OPTIONS,
    REFUSED,
    REMOVED,
    TUNING,
    recorded_defaults,
)
from unillm.vllm_api.names import (
    UNAVAILABLE_IMPORTS,
    UNAVAILABLE_MEMBERS,
    UNAVAILABLE_MODULES,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "vllm-api.md"

ARGUMENTS = {name for name in recorded_defaults() if not name.startswith("_")}
SHARED = ARGUMENTS & GENERATOR_OPTIONS
OWN = {"generation_config", "override_generation_config", "skip_tokenizer_init"}
"""Named arguments of `LLM` itself."""


def table(reasons):
    groups = {}
    for name in sorted(reasons):
        groups.setdefault(reasons[name], []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {reason} |" for reason, names in groups.items()]
    return "\n".join(["| names | instead, or why |", "|---|---|", *rows])


def names(group):
    return ", ".join(f"`{name}`" for name in sorted(group)) + "."


def modules():
    rows = ["| module | names |", "|---|---|"]
    for found in pkgutil.walk_packages(vllm_api.__path__, "unillm.vllm_api."):
        path = found.name.removeprefix("unillm.vllm_api.")
        if "__" in path or path in shim._PRIVATE:
            continue
        module = importlib.import_module(found.name)
        public = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == found.name and name[0] != "_"
        ]
        if public:
            rows.append(f"| `{found.name}` | {names(public)[:-1]} |")
    return "\n".join(rows)


LISTS = {
    "modules": modules(),
    "imports": table(UNAVAILABLE_IMPORTS),
    "absent": table(UNAVAILABLE_MODULES),
    "members": table(UNAVAILABLE_MEMBERS),
    "shared": names(SHARED),
    "tuning": names(TUNING - SHARED),
    "vllm": names(ARGUMENTS - SHARED - TUNING - REFUSED.keys() - OWN),
    "refused": table(REFUSED),
    "removed": table(REMOVED),
    "params": table(UNAVAILABLE_FIELDS),
    "structured": table(UNAVAILABLE_CONSTRAINTS),
}


def rewritten(page):
    def fill(found):
        return f"<!-- {found[1]} -->\n\n{LISTS[found[1]]}"

    return re.sub(r"<!-- (\w+) -->\n\n.*?(?=\n\n|\Z)", fill, page, flags=re.DOTALL)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_the_page_is_that_of_the_code(name):
    assert f"<!-- {name} -->\n\n{LISTS[name]}\n" in PAGE.read_text("utf-8")


@pytest.mark.parametrize("name", ["programs", "examples", "tests"])
def test_a_table_of_programs_is_that_of_the_record(name):
    import vllm_programs  # in scripts/

    table = vllm_programs.tables(vllm_programs.read_record())[name]

    assert f"<!-- of vLLM: {name} -->\n\n{table}\n" in PAGE.read_text("utf-8")


def test_the_output_fields_that_the_page_excludes_do_not_exist():
    [denied] = re.findall(
        r"^`encoder_prompt`, .*$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    of_request, of_completion = (
        set(re.findall(r"`([a-z_]+)`", part)) for part in denied.split(", nor do ")
    )

    assert not of_request & {each.name for each in dataclasses.fields(RequestOutput)}
    assert not of_completion & {
        each.name for each in dataclasses.fields(CompletionOutput)
    }


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
