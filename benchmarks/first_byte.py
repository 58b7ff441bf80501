# SPDX-License-Identifier: Apache-2.0

"""Processor time of commands: until their first byte, and in all.

    python benchmarks/first_byte.py
    python benchmarks/first_byte.py --rounds 5 --before ../older/src

Runs `generate`, `inspect` and `plan` on the bundled model, and the imports that remain,
one after the other in every round. With ``--before`` each command runs on an older
source tree too, in turn. The script prints the conditions, the medians in seconds of
user and system time, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import unillm

COMMANDS = {
    "generate": ["-m", "unillm", "generate", "Count from 3 to 9:"],
    "inspect": ["-m", "unillm", "inspect", "unillm/tiny"],
    "plan": ["-m", "unillm", "plan", "unillm/tiny", "--backend", "transformers"],
    "import torch": ["-c", "import torch; print()"],
    "import the model's class": [
        "-c",
        "import transformers.models.llama.modeling_llama; print()",
    ],
}
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(command: list[str], source: Path) -> tuple[float, float]:
    """Return the processor time until the first byte of output, and in all."""
    with subprocess.Popen(  # noqa: S603 - the commands above
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
        user, system = stat.rpartition(")")[2].split()[11:13]
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return (int(user) + int(system)) / _TICKS, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="an older source tree")
    given = parser.parse_args()
    trees = {"now": Path(unillm.__file__).parents[1]}
    if given.before is not None:
        trees = {"before": given.before.absolute(), **trees}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(given.rounds):
        for name, command in COMMANDS.items():
            for tree, source in trees.items():
                times = measure(command, source)
                found.setdefault((name, tree), []).append(times)
    libraries = {name: version(name) for name in ("torch", "transformers")}
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {libraries}, "
        f"load {load:.1f}, {given.rounds} rounds"
    )
    rows = []
    for (name, tree), times in found.items():
        first, total = (statistics.median(each) for each in zip(*times, strict=True))
        print(f"{name:25} {tree:7} first byte {first:5.2f} s, in all {total:5.2f} s")
        rows.append({"what": name, "tree": tree, "first_s": first, "total_s": total})
    print(json.dumps({"libraries": libraries, "load": load, "rows": rows}))


if __name__ == "__main__":
    main()
