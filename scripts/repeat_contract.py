# SPDX-License-Identifier: Apache-2.0

"""Run the contract on a backend many times on a busy machine, and compare verdicts.

Usage::

    python scripts/repeat_contract.py transformers --times 50 --load 2
    python scripts/repeat_contract.py vllm --option enforce_eager=true

``--load`` processes compute all the while. A line of JSON has the counts so far after
each repetition, so that a run may be ended at any time. The exit code is 1 if a clause
failed or did not have the same verdict each time.
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

from unillm.cli.options import parse_key_values
from unillm.testing.conformance import Conformance, Outcome, run_contract

_LOAD = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep the machine busy inside the block, and no longer than this process lives."""
    loop = [sys.executable, "-c", _LOAD]
    started = [subprocess.Popen(loop) for _ in range(processes)]  # noqa: S603
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


class Verdicts:
    """The verdicts of each clause, counted over repetitions."""

    def __init__(self) -> None:
        self.times = 0
        self.by_clause: dict[str, Counter[str]] = {}

    def add(self, found: Conformance) -> None:
        """Count a repetition, and print why a clause failed."""
        self.times += 1
        for result in found.results:
            seen = self.by_clause.setdefault(result.number, Counter())
            seen[result.outcome.value] += 1
            if result.outcome is Outcome.FAILED:
                print(f"{self.times}: {result.number}: {result.detail}", flush=True)

    @property
    def changed(self) -> dict[str, dict[str, int]]:
        """Clauses that had several verdicts."""
        return {n: dict(seen) for n, seen in self.by_clause.items() if len(seen) > 1}

    @property
    def counts(self) -> dict[str, int]:
        """Clauses by the verdict that they had each time."""
        same = [seen for seen in self.by_clause.values() if len(seen) == 1]
        return dict(Counter(verdict for seen in same for verdict in seen))


def main() -> int:
    """Run, and print the counts after each repetition."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backend")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--load", type=int, default=2)
    parser.add_argument("--option", metavar="KEY=VALUE", action="append", default=[])
    arguments = parser.parse_args()
    options = {"backend_options": parse_key_values(arguments.option)}
    verdicts = Verdicts()
    begun = time.perf_counter()
    with busy(arguments.load):
        while verdicts.times < arguments.times:
            verdicts.add(run_contract(arguments.backend, options=options))
            result = {
                "backend": arguments.backend,
                "times": verdicts.times,
                "load": arguments.load,
                "clauses": verdicts.counts,
                "changed": verdicts.changed,
                "seconds": round(time.perf_counter() - begun, 1),
            }
            print(json.dumps(result), flush=True)
    return int(bool(verdicts.changed or "failed" in verdicts.counts))


if __name__ == "__main__":
    sys.exit(main())
