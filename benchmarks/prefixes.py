# SPDX-License-Identifier: Apache-2.0

"""Requests that begin alike, with prefixes taken over and without, by `unillm bench`.

    python benchmarks/prefixes.py --model 10M --requests 64 --prefix 1000 --rounds 6

The two sides are the embedded engine as it comes and with
``enable_prefix_caching=False``, each in a process of its own. In the workload "shared"
all prompts of a round begin with the same tokens, new in each round; in "apart" no two
prompts share any. Both answers have to be the same tokens. The script prints the
seconds of a round and the ratio of each pair, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
from workload import MODELS, make_model

from unillm.bench import Plan, Report, Side, measure
from unillm.bench.workloads import BATCH, Ask, Case

WAYS = {"as it comes": None, "without": False}
"""Values of ``enable_prefix_caching``."""


@attrs.frozen(kw_only=True)
class Beginnings:
    """Random prompts whose first tokens all requests of a round share, or none."""

    prefix: int
    rest: int
    new: int
    shared: bool
    fresh = False

    def draw(self, rng: random.Random, count: int, ids: Sequence[int]) -> list[Ask]:
        """Return new asks with prompts of *ids*."""

        def prompt() -> list[int]:
            return rng.choices(ids, k=self.prefix)

        stem = prompt()
        return [
            Ask(
                prompt=(stem if self.shared else prompt())
                + rng.choices(ids, k=self.rest),
                max_tokens=self.new,
            )
            for _ in range(count)
        ]


def main() -> None:
    """Measure both workloads both ways, in turn."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(options.model, Path(folder))
        reports = {
            name: _measure(path, options, shared=name == "shared")
            for name in ("shared", "apart")
        }
    for name, report in reports.items():
        _print(name, report)
    print(
        json.dumps({name: json.loads(each.to_json()) for name, each in reports.items()})
    )


def _measure(path: Path, options: argparse.Namespace, *, shared: bool) -> Report:
    return measure(
        Plan(
            model=str(path),
            sides=[
                Side(
                    label=label,
                    options={
                        "backend": "transformers",
                        "max_model_len": options.prefix + options.rest + options.new,
                        "max_num_seqs": options.slots,
                        "enable_prefix_caching": caching,
                        "backend_options": {"device": options.device},
                    },
                )
                for label, caching in WAYS.items()
            ],
            workload=Beginnings(
                prefix=options.prefix,
                rest=options.rest,
                new=options.new,
                shared=shared,
            ),
            cases=[Case(kind=BATCH, size=options.requests, requests=options.requests)],
            warmups=1,
            rounds=options.rounds,
        ),
        say=lambda line: print(line, file=sys.stderr),
    )


def _print(name: str, report: Report) -> None:
    for result in report.results:
        seconds = result.figure("round")
        assert seconds is not None
        verdict = "valid" if result.is_valid else result.reasons
        print(f"{name}, {result.side}: {seconds.spread.median:.3f} s, {verdict}")
    [pair] = report.pairs
    assert pair.equality is not None
    times = 1 / pair.output_ratio.median
    print(
        f"{name}: {times:.2f} times as fast, {pair.equality.equal} of "
        f"{pair.equality.requests} answers equal"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="10M")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=1000, help="shared tokens")
    parser.add_argument("--rest", type=int, default=16, help="tokens after them")
    parser.add_argument("--new", type=int, default=8, help="new tokens of a request")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
