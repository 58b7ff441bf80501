# SPDX-License-Identifier: Apache-2.0

"""One side of a measurement: ``python -m unillm.bench.worker``, with JSON lines.

Standard input has a line of `Task`, and then a line with ``case`` and ``asks`` for each
run. Standard output has ``ready``, and a ``run`` for each; an ``error`` is the last
line of a side that cannot go on. Whatever the engine prints goes to standard error. The
process ends when standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from ..comparison.worker import CONVERTER, sender, take_stdout
from ..phases import listening
from .lines import Ready, Task, versions
from .samples import Run
from .workloads import Ask, Case

if TYPE_CHECKING:
    from ..artifacts.plan import EnginePlan


class Load(Protocol):
    """An engine or a server under load."""

    def run(self, case: Case, asks: Sequence[Ask]) -> Run:
        """Serve the asks of one round."""


def main() -> None:
    """Load a side and serve its runs until standard input ends."""
    send = sender(take_stdout())
    try:
        task = CONVERTER.loads(sys.stdin.readline(), Task)
        with (
            listening(lambda status: send(phase=status)),
            _opened(task) as (load, ready),
        ):
            send(ready=ready)
            for text in sys.stdin:
                line = json.loads(text)
                case = CONVERTER.structure(line["case"], Case)
                asks = [CONVERTER.structure(ask, Ask) for ask in line["asks"]]
                begun = time.monotonic()
                run = load.run(case, asks)
                whole = time.monotonic() - begun
                send(run=attrs.evolve(run, whole_seconds=whole))
    except Exception as error:  # noqa: BLE001 - the caller reports it
        traceback.print_exc()
        send(error={"kind": type(error).__name__, "message": str(error)})
        sys.exit(1)


@contextlib.contextmanager
def _opened(task: Task) -> Iterator[tuple[Load, Ready]]:
    if task.url is not None:
        from .client import opened

        with opened(task.url, task.model) as found:
            yield found
        return
    begun = time.perf_counter()
    from ..generator import open_generator
    from ..preparation import plan_engine
    from ..resolve import resolve
    from .loads import EngineLoad

    resolved = resolve(task.model, **task.options)
    plan = plan_engine(task.model, **task.options)
    import_s = time.perf_counter() - begun
    build_s = _build(task, plan)
    begun = time.perf_counter()
    with open_generator(resolved) as generator:
        load_s = time.perf_counter() - begun
        load = EngineLoad(generator)
        first = load.run(
            Case(kind="batch", size=1, requests=1), [Ask(prompt=[5], max_tokens=1)]
        )
        limits = generator.limits
        yield (
            load,
            Ready(
                backend=generator.backend,
                distribution=resolved.distribution,
                versions=versions(),
                max_model_len=limits.max_model_len,
                max_num_seqs=limits.max_num_seqs,
                vocab_size=limits.vocab_size,
                eos_token_ids=sorted(generator.eos_token_ids),
                import_s=import_s,
                load_s=load_s,
                first_token_s=first.seconds,
                built=plan.outcome.value,
                build_s=build_s,
            ),
        )


def _build(task: Task, plan: EnginePlan) -> float | None:
    """Build a missing engine; return the seconds of this build, or of the last one."""
    from ..preparation import prepare_engine

    if plan.used is None and plan.spec is not None:
        begun = time.perf_counter()
        artifact = prepare_engine(task.model, **task.options)
        seconds = time.perf_counter() - begun
        if artifact is not None:
            artifact.close()
        return seconds
    return None if plan.past is None else plan.past.seconds


if __name__ == "__main__":
    main()
