# SPDX-License-Identifier: Apache-2.0

"""Run the contract on a backend many times on a busy machine, and compare verdicts.

Usage::

    python scripts/repeat_contract.py transformers --times 50 --load 2

``--load`` processes compute all the while. A clause that does not have the same verdict
each time is printed, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

from unillm.testing.conformance import run_contract


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep the machine busy inside the block."""
    loop = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(loop) for _ in range(processes)]  # noqa: S603
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> int:
    """Run, and print the clauses that changed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backend")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--load", type=int, default=2)
    arguments = parser.parse_args()
    verdicts: dict[str, Counter[str]] = {}
    begun = time.perf_counter()
    with busy(arguments.load):
        for _ in range(arguments.times):
            for result in run_contract(arguments.backend).results:
                seen = verdicts.setdefault(result.number, Counter())
                seen[result.outcome.value] += 1
    changed = {number: dict(seen) for number, seen in verdicts.items() if len(seen) > 1}
    for number, seen in changed.items():
        print(f"{number}: {seen}")
    print(
        json.dumps(
            {
                "backend": arguments.backend,
                "times": arguments.times,
                "load": arguments.load,
                "clauses": len(verdicts),
                "changed": changed,
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
    )
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
