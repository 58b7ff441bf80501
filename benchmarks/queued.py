# SPDX-License-Identifier: Apache-2.0

"""Time and memory of a request that waits: many prompts in one call, all queued.

    python benchmarks/queued.py --requests 1000000
    python benchmarks/queued.py --requests 100000 --tokens 8

The engine is scripted and computes nothing, so all time is that of unillm. It begins
once every request is queued. The script prints the conditions, the time and the memory
of a request, what is left when the outputs are gone, and one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

import unillm
from unillm import Generator, SamplingParams
from unillm.config import EngineConfig
from unillm.engines.base import Engine
from unillm.engines.slots import PrefillResult, PromptChunk
from unillm.runtime.allocator import give_back
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedSlotEngine

PROMPT_TOKENS = 16
VOCAB = 256
SLOTS = 256
POLL_S = 0.02


class GatedEngine(ScriptedSlotEngine):
    """Slots that compute nothing, and nothing at all before `gate` is set."""

    def __init__(self) -> None:
        super().__init__(lambda _, n: n, num_slots=SLOTS, vocab_size=VOCAB)
        self.gate = threading.Event()

    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        """Wait for the gate, and keep no record of the calls."""
        self.gate.wait()
        self.calls.clear()
        return super().prefill(chunks)


@attrs.frozen
class Measured:
    """Seconds and bytes of one call."""

    queued_s: float
    """From the call until every request waits in the engine's queue."""
    served_s: float
    """From then until the outputs are there."""
    processor_s: float
    """Processor time of all threads; other programs add nothing to it."""
    queued_bytes: int
    peak_bytes: int
    outputs_bytes: int
    left_bytes: int


def measure(requests: int, tokens: int) -> Measured:
    """Queue *requests* prompts in one call, then serve *tokens* new tokens of each."""
    engine = GatedEngine()

    def make_engine(_: EngineConfig) -> Engine:
        return SlotScheduler(engine)

    params = SamplingParams(max_tokens=tokens, ignore_eos=True, seed=0)
    prompts = [[number % VOCAB] * PROMPT_TOKENS for number in range(requests)]
    with (
        plugged(ScriptedBackend(make_engine, name="gated")),
        Generator(
            "unillm/tiny",
            backend="gated",
            max_queued_requests=requests,
            max_queued_tokens=requests * PROMPT_TOKENS,
        ) as generator,
    ):
        engine.gate.set()
        generator.generate(prompts[:SLOTS], params)
        engine.gate.clear()
        before = settled_bytes()
        start, worked = time.perf_counter(), time.process_time()
        watcher = Watcher(generator, engine, accepted=SLOTS + requests)
        outputs = generator.generate(prompts, params)
        end, worked = time.perf_counter(), time.process_time() - worked
        assert len(outputs) == requests
        watcher.join()
        peak = high_water_bytes()
        with_outputs = settled_bytes()
        del outputs
        left = settled_bytes()
    return Measured(
        queued_s=watcher.at - start,
        served_s=end - watcher.at,
        processor_s=worked,
        queued_bytes=watcher.bytes - before,
        peak_bytes=peak - before,
        outputs_bytes=with_outputs - before,
        left_bytes=left - before,
    )


class Watcher(threading.Thread):
    """Measures once all requests are accepted, and then opens the gate."""

    def __init__(
        self, generator: Generator, engine: GatedEngine, *, accepted: int
    ) -> None:
        super().__init__()
        self._generator, self._engine, self._accepted = generator, engine, accepted
        self.at = 0.0
        self.bytes = 0
        self.start()

    def run(self) -> None:
        """Poll the counters."""
        while self._generator.stats()["accepted"] < self._accepted:
            time.sleep(POLL_S)
        self.at = time.perf_counter()
        self.bytes = resident_bytes()
        self._engine.gate.set()


def settled_bytes() -> int:
    """Return the resident memory after a collection, without free pages."""
    gc.collect()
    give_back()
    return resident_bytes()


def resident_bytes() -> int:
    """Return the memory that the process has in RAM."""
    return _status("VmRSS")


def high_water_bytes() -> int:
    """Return the most memory that the process ever had in RAM."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure, and print the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=1, help="new tokens of each")
    args = parser.parse_args()
    conditions = {
        "unillm": unillm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "requests": args.requests,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": args.tokens,
        "slots": SLOTS,
    }
    for name, value in conditions.items():
        print(f"{name:<14} {value}")
    found = measure(args.requests, args.tokens)
    count = args.requests
    numbers = {
        "us_per_request": (found.queued_s + found.served_s) / count * 1e6,
        "us_of_processor": found.processor_s / count * 1e6,
        "us_queued": found.queued_s / count * 1e6,
        "us_served": found.served_s / count * 1e6,
        "bytes_queued": found.queued_bytes / count,
        "bytes_peak": found.peak_bytes / count,
        "bytes_with_output": found.outputs_bytes / count,
        "mib_left": found.left_bytes / 2**20,
    }
    for name, number in numbers.items():
        print(f"{name:<18} {number:10.1f}")
    print(json.dumps({**conditions, **numbers}))


if __name__ == "__main__":
    main()
