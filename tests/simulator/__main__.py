# SPDX-License-Identifier: Apache-2.0

"""``python -m simulator``: simulate the worlds of many seeds, and prove each."""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import logging
import sys
import time
from pathlib import Path

from . import World, check, simulate


def main(argv: list[str] | None = None) -> int:
    """Print a line for each seed and a JSON line; return 1 if a history breaks a rule."""
    options = _options(argv)
    logging.getLogger("unillm").setLevel(logging.CRITICAL)  # the faults are intended
    first, last = options.seeds
    share, more = divmod(options.requests, last - first)
    began = time.perf_counter()
    digest = hashlib.sha256()
    events: collections.Counter[str] = collections.Counter()
    broken = 0
    for seed in range(first, last):
        requests = share + (seed - first < more)
        history = simulate(World.of(seed, requests, faults=not options.no_faults))
        violations = check(history)
        broken += len(violations)
        digest.update(history.digest.encode())
        events.update(event[0] for event in history)
        if options.history:
            history.write(options.history)
        print(
            f"seed {seed}: {requests} requests, {len(history)} events, "
            f"{len(violations)} violations, {history.digest[:16]}"
        )
        for violation in violations[:10]:
            print(f"  {violation}")
        if violations:
            print(
                f"  again: python -m simulator --requests {requests} "
                f"--seeds {seed}:{seed + 1} --history FILE"
            )
    print(
        json.dumps(
            {
                "requests": options.requests,
                "seeds": [first, last],
                "faults": not options.no_faults,
                "events": dict(sorted(events.items())),
                "violations": broken,
                "digest": digest.hexdigest(),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    )
    return 1 if broken else 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="total number")
    parser.add_argument(
        "--seeds", type=_seeds, default=(0, 10), metavar="A:B", help="from A to B - 1"
    )
    parser.add_argument("--no-faults", action="store_true", help="no engine fails")
    parser.add_argument("--history", type=Path, help="append the events to this file")
    return parser.parse_args(argv)


def _seeds(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    seeds = int(first), int(last) if last else int(first) + 1
    if seeds[0] >= seeds[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is empty; write A:B with A < B")
    return seeds


if __name__ == "__main__":
    sys.exit(main())
