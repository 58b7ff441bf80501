# SPDX-License-Identifier: Apache-2.0

"""Write the table of modules into the pages, from the contracts in pyproject.toml.

Usage::

    python scripts/draw_rooms.py           # write the table
    python scripts/draw_rooms.py --check   # fail if a page has another one

`lint-imports` checks the contracts; this script keeps the pages equal to them. The
purpose of a module is the first sentence of its docstring.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # import-linter depends on it

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unillm"
PAGES = ("CONTRIBUTING.md", "docs/explanation/architecture.md")
BEGIN = "<!-- rooms: scripts/draw_rooms.py writes what follows -->\n"
END = "<!-- end of rooms -->\n"
PUBLIC = {"backend", "bench", "errors", "hookspecs", "jobs", "testing", "vllm_api"}


def table() -> Iterator[str]:
    """Yield the lines of the table, and of the rules below it."""
    layers, *others = _contracts()
    yield "| layer | module | purpose |"
    yield "|---|---|---|"
    count = len(layers["layers"])
    for above, layer in enumerate(layers["layers"]):
        for name in re.findall(r"\w+", layer):
            public = " (public)" if name in PUBLIC else ""
            path, purpose = _read(name)
            yield f"| {count - above} | `{path}`{public} | {purpose} |"
    yield ""
    for contract in (layers, *others):
        yield f"- {contract['name']}."


def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return contracts


def _read(name: str) -> tuple[str, str]:
    """Return the path of a module, and the first sentence of its docstring."""
    path, file = f"{name}.py", SOURCE / f"{name}.py"
    if not file.is_file():
        path, file = f"{name}/", SOURCE / name / "__init__.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return path, re.split(r"\.\s|\n", text)[0].rstrip(".")


def main() -> int:
    """Write the pages, or check them; return the exit status."""
    new = "\n".join(table()) + "\n"
    stale = []
    for page in PAGES:
        path = ROOT / page
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            sys.exit(f"{page} lacks the line {BEGIN if not begin else END}")
        text = f"{before}{begin}\n{new}\n{end}{after}"
        if text != path.read_text(encoding="utf-8"):
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"stale: {', '.join(stale)}. Run: python scripts/draw_rooms.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
