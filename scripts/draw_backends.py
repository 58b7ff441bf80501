# SPDX-License-Identifier: Apache-2.0

"""Write the table of known backends into its page, from runs of the contract.

Usage::

    unillm conformance NAME --json | python scripts/draw_backends.py --add "on a CPU"
    unillm conformance NAME --random N --json | python scripts/draw_backends.py --add …
    python scripts/draw_backends.py           # write the page from backends.json
    python scripts/draw_backends.py --check   # fail if the page has another table

The words after ``--add`` say how it was run. A run replaces the last one of the same
backend in the same way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
RECORDS = FOLDER / "backends.json"
PAGE = FOLDER / "backends.md"
BEGIN = "<!-- backends: scripts/draw_backends.py writes what follows -->\n"
END = "<!-- end of backends -->\n"
COUNTS = ("passed", "failed", "waived", "not declared", "not shown")


def add(run: dict[str, Any], how: str) -> None:
    """Add the JSON of `unillm conformance`, with or without ``--random``."""
    records = _records()
    key = {"backend": run["backend"], "how": how}
    kept = [each for each in records if {**each, **key} != each]
    [record] = [each for each in records if each not in kept] or [key]
    if "clauses" in run:
        record["distribution"] = run["distribution"]
        record["counts"] = run["counts"]
        for outcome in ("failed", "waived", "not declared"):
            found = [c["number"] for c in run["clauses"] if c["outcome"] == outcome]
            record[outcome] = found
    else:
        names = ("requests", "seed", "tokens", "draws", "conforms")
        random = {name: run[name] for name in names}
        seeds = [
            each for each in record.get("random", ()) if each["seed"] != run["seed"]
        ]
        record["random"] = sorted([*seeds, random], key=lambda each: each["seed"])
    kept.append(record)
    kept.sort(key=lambda each: (each["backend"], each["how"]))
    RECORDS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def text() -> str:
    """Return the tables of the page."""
    return "\n".join([*_clauses(), "", *_random(), ""])


def _clauses() -> Iterator[str]:
    yield f"| backend | {' | '.join(COUNTS)} | how it was run |"
    yield f"|{'---|' * (len(COUNTS) + 2)}"
    for record in _records():
        if "counts" not in record:
            continue
        cells = [str(record["counts"][name]) for name in COUNTS]
        for name in ("failed", "waived"):
            if record[name]:
                cells[COUNTS.index(name)] += f" ({', '.join(record[name])})"
        yield f"| `{record['backend']}` | {' | '.join(cells)} | {record['how']} |"


def _random() -> Iterator[str]:
    yield "| backend | random requests | new tokens | drawn | faults | how it was run |"
    yield "|---|---|---|---|---|---|"
    for record in _records():
        runs = record.get("random", ())
        if not runs:
            continue
        sums = [sum(r[name] for r in runs) for name in ("requests", "tokens", "draws")]
        seeds = ", ".join(str(each["seed"]) for each in runs)
        cells = [f"{sums[0]:,} (seed {seeds})", f"{sums[1]:,}", f"{sums[2]:,}"]
        cells.append(str(sum(not each["conforms"] for each in runs)))
        yield f"| `{record['backend']}` | {' | '.join(cells)} | {record['how']} |"


def _records() -> list[dict[str, Any]]:
    if not RECORDS.exists():
        return []
    records: list[dict[str, Any]] = json.loads(RECORDS.read_text(encoding="utf-8"))
    return records


def main(arguments: list[str]) -> int:
    """Add a run, write the page, or compare it."""
    if arguments[:1] == ["--add"]:
        add(json.load(sys.stdin), arguments[1])
    old = PAGE.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{text()}\n{END}{after}"
    if arguments[:1] == ["--check"]:
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
