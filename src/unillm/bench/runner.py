# SPDX-License-Identifier: Apache-2.0

"""`measure`: a plan to a report. Each side is a process; rounds go in turn, A B A B.

A side that waits is stopped, so engines that never rest do not disturb the others.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence

import attrs

from .. import inspect_model
from ..comparison.child import Child
from ..comparison.worker import CONVERTER
from ..errors import UnillmError
from . import accounting
from .costing import costs_of
from .device import Device, Question
from .equality import equality
from .figures import Round, figures_of, gaps, latencies, tpots, ttfts
from .lines import Ready, Task
from .plan import Plan, Side
from .probing import Probe, answered, case_of, probes_of, tails_hold
from .report import Pair, Report, SideRecord
from .results import Bar, Result
from .roofline import Cost, cost_of, floor_of, num_devices
from .samples import Run
from .statistics import decision, paired_ratio, percentile
from .sweeping import next_case
from .tokens import Counting
from .verdicts import Evidence, reasons
from .workloads import Ask, Case, asks_of, described

Say = Callable[[str], None]

UNSETTLED = 0.2
"""Difference of the last warm-up and the first round that is worth a note."""

FEWEST_IDS = 16


def measure(plan: Plan, say: Say = lambda _: None, *, show_log: bool = False) -> Report:
    """Measure all sides of a plan.

    Args:
        plan: The sides, the workload and the cases.
        say: Called with a line on each stage.
        show_log: Show what the engines print on standard error.

    Raises:
        SideFailedError: A side cannot be loaded, or ended early.
        ModelError: The model cannot be found or read.
    """
    begun = accounting.clocks()
    costs = {side.label: _cost(plan.model, side) for side in plan.sides}
    say("measuring the device")
    devices = _devices(plan, costs, show_log)
    groups = [[s] for s in plan.sides] if plan.one_after_another else [plan.sides]
    measured: dict[str, _Measured] = {}
    ids: list[int] = []
    for group in groups:
        with contextlib.ExitStack() as stack:
            live = []
            for side in group:
                say(f"loading {side.label}")
                live.append(stack.enter_context(_live(plan, side, show_log)))
                if len(group) > 1:
                    live[-1].rest()
            # The same prompts for all sides, measured together or not.
            ids = ids or _plain_ids(live)
            _run_rounds(plan, live, ids, say)
            for each in live:
                measured[each.side.label] = each.finish()
    for label, device in _devices(plan, costs, show_log).items():
        # The machine may have been busy at the start.
        devices[label] = device.at_least(devices[label])
    drift = accounting.clock_drift(begun)
    results = [
        _result(
            plan,
            measured[side.label],
            case,
            limits=(costs[side.label], devices.get(side.label)),
            drift=drift,
        )
        for case in _cases(plan, measured)
        for side in plan.sides
        if case.name in measured[side.label].rounds
    ]
    readies = {label: each.record.ready for label, each in measured.items()}
    return Report(
        model=plan.model,
        conditions=_conditions(plan, drift),
        devices=devices,
        sides=[each.record for each in measured.values()],
        results=results,
        pairs=list(_pairs(plan, measured, results)),
        costs=None if plan.price is None else costs_of(results, readies, plan.price),
    )


# ------------------------------------------------------------------------- one side


@attrs.define(kw_only=True)
class _Measured:
    """The rounds of one side."""

    record: SideRecord
    cases: dict[str, Case] = attrs.field(factory=dict)
    warm: dict[str, list[float]] = attrs.field(factory=dict)
    rounds: dict[str, list[tuple[Run, list[Ask]]]] = attrs.field(factory=dict)
    probes: dict[str, list[Probe]] = attrs.field(factory=dict)


class _Live:
    """A side whose process lives.

    Attributes:
        rests: Whether the process is stopped between its rounds.
    """

    def __init__(self, side: Side, child: Child, ready: Ready, start_s: float) -> None:
        self.side = side
        self.ready = ready
        self.rests = False
        self._child = child
        self._meters = accounting.Meters()
        self.measured = _Measured(
            record=SideRecord(
                label=side.label,
                options=side.options,
                url=side.url,
                ready=ready,
                start_s=start_s,
            )
        )

    def run(self, case: Case, asks: Sequence[Ask]) -> Run:
        """Serve one round, and account for it."""
        pid = self._child.pid
        line = {
            "case": CONVERTER.unstructure(case),
            "asks": CONVERTER.unstructure(list(asks)),
        }
        with accounting.awake(pid) if self.rests else contextlib.nullcontext():
            cpu, energy = accounting.cpu_seconds(pid), self._meters.energy_j()
            begun = time.monotonic()
            self._child.send([line])
            run = CONVERTER.structure(self._child.receive("run"), Run)
            outer = time.monotonic() - begun
            after = self._meters.energy_j()
            return attrs.evolve(
                run,
                outer_seconds=outer,
                cpu_s=accounting.cpu_seconds(pid) - cpu,
                energy_j=accounting.energy_between(energy, after),
                clock_mhz=self._meters.clock_mhz(),
            )

    def runs(self, case: Case) -> list[Run]:
        """Return the measured rounds of a case."""
        return [run for run, _ in self.measured.rounds[case.name]]

    def rest(self) -> None:
        """Stop the process until its next round."""
        self.rests = True
        accounting.signal_session(self._child.pid, accounting.STOP)

    def probe(self, case: Case) -> None:
        """Continue some completions of a case from their middle."""
        rounds = self.measured.rounds[case.name]
        if probes := probes_of(rounds, _counting(self.ready)):
            run = self.run(case_of(probes), [probe.ask for probe in probes])
            probes = answered(probes, run)
        self.measured.probes[case.name] = probes

    def finish(self) -> _Measured:
        """Return the rounds, with the memory at its peak."""
        pid = self._child.pid
        self.measured.record = attrs.evolve(
            self.measured.record,
            peak_bytes=0 if self.side.url else accounting.peak_bytes(pid),
            device_bytes=None if self.side.url else self._meters.memory_bytes(pid),
        )
        return self.measured


@contextlib.contextmanager
def _live(plan: Plan, side: Side, show_log: bool) -> Iterator[_Live]:
    task = Task(model=plan.model, options=side.options, url=side.url)
    begun = time.monotonic()
    with Child(side.python, "unillm.bench.worker", show_log=show_log) as child:
        child.send([CONVERTER.unstructure(task)])
        ready = CONVERTER.structure(child.receive("ready"), Ready)
        start_s = time.monotonic() - begun
        try:
            yield _Live(side, child, ready, start_s)
        finally:
            accounting.signal_session(child.pid, accounting.CONTINUE)


def _run_rounds(
    plan: Plan, live: Sequence[_Live], ids: Sequence[int], say: Say
) -> None:
    """Run all cases, warm-ups first, each round on one side after the other."""
    for case in plan.cases:
        _run_case(plan, case, live, ids, say)
    if not plan.sweep:
        return
    for side in live:  # each saturates at a rate of its own
        last = plan.cases[-1]
        while following := next_case(last, side.runs(last), plan.slo):
            _run_case(plan, following, [side], ids, say)
            last = following


def _run_case(
    plan: Plan, case: Case, live: Sequence[_Live], ids: Sequence[int], say: Say
) -> None:
    rng = random.Random(f"{plan.seed} {case.name}")
    for side in live:
        side.measured.cases[case.name] = case
    for number in range(-plan.warmups, plan.rounds):
        asks = asks_of(case, plan.workload, rng, ids)
        for side in live:
            run = side.run(case, asks)
            if number < 0:
                warm = side.measured.warm.setdefault(case.name, [])
                warm.append(run.seconds)
            else:
                kept = side.measured.rounds.setdefault(case.name, [])
                kept.append((run, asks))
    for side in live:
        side.probe(case)
    say(f"{case.name}: {plan.rounds} rounds")


def _plain_ids(live: Sequence[_Live]) -> list[int]:
    """Return the ids of random prompts: known to all sides, and not EOS."""
    sizes = [side.ready.vocab_size for side in live]
    known = [size for size in sizes if size is not None]
    special = {token for side in live for token in side.ready.eos_token_ids}
    ids = [n for n in range(3, min(known, default=256)) if n not in special]
    return ids if len(ids) >= FEWEST_IDS else list(range(min(known, default=256)))


# ---------------------------------------------------------------------- their judgement


def _cost(model: str, side: Side) -> Cost | None:
    """Return the cost of a step, or `None` where the engine may read other bytes."""
    options = side.options
    if side.url or options.get("quantization") or options.get("speculative_config"):
        return None
    try:
        report = inspect_model(model, dtype=options.get("dtype", "auto"))
    except UnillmError:
        return None
    if report.step is None or report.weights is None:
        return None
    return cost_of(report.step, report.weights.parameters_by_dtype)


def _devices(
    plan: Plan, costs: dict[str, Cost | None], show_log: bool
) -> dict[str, Device]:
    """Return the measured device of each side, each interpreter's measured once."""
    found: dict[tuple[str, str, int], Device] = {}
    devices = {}
    for side in plan.sides:
        cost = costs[side.label]
        if cost is None:
            continue
        kind = dict(side.options.get("backend_options") or {}).get("device", "auto")
        size = int(cost.step_bytes)
        key = side.python, str(kind).partition(":")[0], size
        if key not in found:
            question = Question(weight_bytes=size, device=key[1])
            with Child(side.python, "unillm.bench.device", show_log=show_log) as child:
                child.send([CONVERTER.unstructure(question)])
                found[key] = CONVERTER.structure(child.receive("device"), Device)
        devices[side.label] = found[key]
    return devices


def _cases(plan: Plan, measured: dict[str, _Measured]) -> list[Case]:
    """Return all cases, in order: a sweep adds cases of one side."""
    known = {case.name: case for case in plan.cases}
    for side in measured.values():
        known |= side.cases
    return list(known.values())


def _result(
    plan: Plan,
    measured: _Measured,
    case: Case,
    *,
    limits: tuple[Cost | None, Device | None],
    drift: float,
) -> Result:
    label, ready = measured.record.label, measured.record.ready
    cost, device = limits
    shared = num_devices(measured.record.options)
    rounds = [
        Round(
            run=run,
            asks=asks,
            floor=None
            if cost is None or device is None
            else floor_of(
                case,
                asks,
                cost,
                device,
                devices=shared,
                in_cache=[]
                if plan.workload.fresh
                else [sample.num_cached_tokens for sample in run.samples],
            ),
        )
        for run, asks in measured.rounds[case.name]
    ]
    probes = measured.probes[case.name]
    counting = attrs.evolve(_counting(ready), tails_count=tails_hold(probes))
    figures = figures_of(case, rounds, counting, plan.slo)
    evidence = Evidence(
        case=case,
        rounds=rounds,
        figures=figures,
        counting=counting,
        probes=probes,
        fresh=plan.workload.fresh,
        drift=drift,
    )
    warm = measured.warm.get(case.name, [])
    return Result(
        side=label,
        case=case,
        figures=figures,
        reasons=reasons(evidence),
        notes=list(_notes(rounds, warm)),
        warmup_s=warm,
        percentiles=_percentiles(rounds),
        timeline=_timeline(rounds[-1].run),
    )


def _counting(ready: Ready) -> Counting:
    filling = {*ready.eos_token_ids, *ready.pad_token_ids}
    return Counting(vocab_size=ready.vocab_size, filling=filling)


def _notes(rounds: Sequence[Round], warm: Sequence[float]) -> Iterator[str]:
    if rounds[0].floor is None:
        yield "no bound: the bytes of a step, or the device, are not known"
    first = rounds[0].run.seconds
    if warm and abs(warm[-1] - first) > UNSETTLED * first:
        yield (
            f"the last warm-up took {warm[-1]:.3f} s, the first round {first:.3f} s: "
            "give more --warmups"
        )
    if any(s.token_ids is None and not s.error for r in rounds for s in r.run.samples):
        yield "tokens are the server's own count: it returns no ids"


def _percentiles(rounds: Sequence[Round]) -> dict[str, list[float]]:
    samples = [sample for each in rounds for sample in each.run.samples]
    named = {
        "ttft": ttfts(samples),
        "tpot": tpots(samples),
        "itl": gaps(samples),
        "e2e": latencies(samples),
    }
    return {
        name: [percentile(values, share) for share in range(101)]
        for name, values in named.items()
        if values
    }


def _timeline(run: Run) -> list[Bar]:
    return [
        Bar(
            slot=number if sample.slot is None else sample.slot,
            sent_s=sample.sent_s,
            first_s=sample.first_s,
            last_s=sample.last_s,
        )
        for number, sample in enumerate(run.samples)
        if sample.first_s is not None and sample.last_s is not None
    ]


def _pairs(
    plan: Plan, measured: dict[str, _Measured], results: Sequence[Result]
) -> Iterator[Pair]:
    """Yield the first side with each other one, on each case that both have."""
    first, *others = (side.label for side in plan.sides)
    by_key = {(result.side, result.case.name): result for result in results}
    for case in plan.cases:
        one = by_key[first, case.name]
        for label in others:
            other = by_key[label, case.name]
            speeds = one.figure("output"), other.figure("output")
            assert speeds[0] is not None
            assert speeds[1] is not None
            valid = one.is_valid and other.is_valid
            if not all(speeds[0].values):
                continue  # nothing was served
            ratio = paired_ratio(speeds[0].values, speeds[1].values)
            runs = [
                [run for run, _ in measured[name].rounds[case.name]]
                for name in (first, label)
            ]
            yield Pair(
                case=case.name,
                sides=(first, label),
                output_ratio=ratio,
                decision=decision(ratio) if valid else "INVALID",
                equality=equality(*runs),
            )


def _conditions(plan: Plan, drift: float) -> dict[str, object]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "workload": described(plan.workload),
        "warmups": plan.warmups,
        "rounds": plan.rounds,
        "seed": plan.seed,
        "in_turn": not plan.one_after_another,
        "clock_drift": drift,
        "slo": None if plan.slo is None else attrs.asdict(plan.slo),
        "sampling": "greedy, EOS ignored, all max_tokens generated, text included",
    }
