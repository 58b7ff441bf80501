# SPDX-License-Identifier: Apache-2.0

"""An engine that lies about its work is marked INVALID, in each way that it knows.

The honest engine computes a step in `STEP_S`, which is a little more than the device of
these tests allows. The clock is the tests' own: it goes on when the engine computes.
"""

from __future__ import annotations

import random
import time

import attrs
import pytest

from unillm import Generator
from unillm.bench.device import Device
from unillm.bench.figures import Round, figures_of
from unillm.bench.loads import EngineLoad
from unillm.bench.probing import Probe, answered, case_of, probes_of, tails_hold
from unillm.bench.roofline import Cost, floor_of
from unillm.bench.samples import Run, Sample
from unillm.bench.tokens import Counting
from unillm.bench.verdicts import Evidence, reasons
from unillm.bench.workloads import BATCH, Ask, Case, Fixed, Lognormal
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

STEP_S = 0.004
SKIPPED_S = 0.00001
"""A step without a computation."""
VOCAB = 512
EOS = 2
CASE = Case(kind=BATCH, size=4, requests=4)
WORK = Fixed(prompt_tokens=16, output_tokens=16)
COST = Cost(weight_bytes=1_000_000, flops_per_token=1000)
DEVICE = Device(
    kind="cpu",
    name="a device that reads the weights in 3 ms",
    cores=1,
    bandwidth=COST.weight_bytes / 0.003,
    memory_bandwidth=COST.weight_bytes / 0.003,
    flops=1e12,
    flops_by_type={},
    measured_bytes=COST.weight_bytes,
    library="none",
)


def honest(context):
    """The next token: it depends on all before, and is not an EOS token."""
    return 10 + sum(place * token for place, token in enumerate(context, 1)) % 401


class Clock:
    """The true time, and the time that the side reads."""

    def __init__(self):
        self.true = self.read = 1000.0

    def go_on(self, seconds, *, speed=1.0):
        self.true += seconds
        self.read += seconds * speed


class Engine(ScriptedEngine):
    """Honest, but for one lie."""

    def __init__(self, lie, clock):
        super().__init__(self._token, max_num_seqs=4, vocab_size=VOCAB)
        self._clock = clock
        self.lie = lie
        self._first = None
        self._steps = 0
        self._contexts = {}

    def _token(self, request, position):
        if self.lie == "one answer to all":
            self._first = self._first or request
            request = self._first
        if self.lie == "pads with EOS" and position >= 6:
            return EOS
        if self.lie == "an EOS model":
            return EOS if EOS in request.prompt_token_ids or position > 3 else 10
        if self.lie == "pads outside the vocabulary" and position >= 6:
            return VOCAB + 7
        if self.lie == "guesses" and position >= 4:
            return 10 + (request.arrival * 53 + position * 7) % 400
        context = self._contexts.setdefault(
            (request.request_id, position), list(request.prompt_token_ids)
        )
        token = honest(context)
        self._contexts[request.request_id, position + 1] = [*context, token]
        return token

    def step(self):
        self._steps += 1
        if self.lie == "all tokens at once":
            return self._whole()
        skipped = {
            "does not compute": True,
            "a first token before the prompt is read": self._steps % 16 == 1,
            "computes every second token": self._steps % 2 == 0,
        }
        seconds = SKIPPED_S if skipped.get(self.lie, False) else STEP_S
        self._clock.go_on(seconds, speed=1 / 3 if self.lie == "a slow clock" else 1)
        return list(map(self._altered, super().step()))

    def _whole(self):
        """Answer each request in one step."""
        found = {}
        while self.has_unfinished():
            for output in super().step():
                before = found.get(output.request_id)
                ids = (
                    (*before.token_ids, *output.token_ids)
                    if before
                    else output.token_ids
                )
                found[output.request_id] = attrs.evolve(output, token_ids=ids)
        self._clock.go_on(16 * STEP_S)
        return list(found.values())

    def _altered(self, output):
        row = self._running.get(output.request_id)
        reason = {"ends early": "length", "ends at an EOS token": "stop"}.get(self.lie)
        if reason and row and row.generated == 8:
            del self._running[output.request_id]
            return attrs.evolve(output, finish_reason=reason)
        if self.lie == "takes prompts from a cache":
            return attrs.evolve(output, num_cached_tokens=8)
        if self.lie == "drops a request" and row and row.request.arrival % 4 == 3:
            del self._running[output.request_id]
            return attrs.evolve(
                output, token_ids=(), finish_reason="error", error="it is dropped"
            )
        return output


def judged(lie, monkeypatch, *, work=WORK, lying=range(3)):
    """The checks that the engine fails, which lies in some of its three rounds."""
    rounds = []
    clock = Clock()
    engine = Engine(None, clock)
    monkeypatch.setattr(time, "monotonic", lambda: clock.read)
    with (
        plugged(ScriptedBackend(lambda _: engine)),
        Generator("unillm/tiny", backend="scripted") as generator,
    ):
        load = EngineLoad(generator)
        rng = random.Random(0)
        for number in range(3):
            asks = work.draw(rng, CASE.requests, range(10, 400))
            engine.lie = lie if number in lying else None
            begun = clock.true
            read = clock.read
            run = load.run(CASE, asks)
            run = attrs.evolve(
                run,
                whole_seconds=clock.read - read,
                outer_seconds=clock.true - begun,
            )
            floor = floor_of(CASE, asks, COST, DEVICE)
            rounds.append(Round(run=run, asks=asks, floor=floor))
        counting = Counting(vocab_size=VOCAB, filling=generator.eos_token_ids | {EOS})
        probes = probes_of([(each.run, each.asks) for each in rounds], counting)
        engine.lie = lie if len(lying) == 3 else None
        if probes:
            run = load.run(case_of(probes), [probe.ask for probe in probes])
            probes = answered(probes, run)
        counting = attrs.evolve(counting, tails_count=tails_hold(probes))
    figures = figures_of(CASE, rounds, counting, None)
    evidence = Evidence(
        case=CASE,
        rounds=rounds,
        figures=figures,
        counting=counting,
        probes=probes,
        fresh=True,
    )
    return [reason.check for reason in reasons(evidence)]


def test_the_honest_engine_is_valid(monkeypatch):
    assert judged(None, monkeypatch) == []


def test_a_model_that_goes_on_with_eos_by_itself_is_not_padded(monkeypatch):
    found = judged("an EOS model", monkeypatch)

    assert "padding" not in found
    assert "other continuation" not in found


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("pads with EOS", "padding"),
        ("pads outside the vocabulary", "ids outside the vocabulary"),
        ("guesses", "other continuation"),
        ("one answer to all", "repeated answer"),
        ("ends early", "wrong length"),
        ("ends at an EOS token", "wrong length"),
        ("drops a request", "failed request"),
        ("takes prompts from a cache", "prompts from a cache"),
        ("does not compute", "beyond the bound"),
        ("computes every second token", "beyond the bound"),
        ("all tokens at once", "no time between tokens"),
        ("a first token before the prompt is read", "early first token"),
        ("a slow clock", "clock of the side"),
    ],
)
def test_a_lie_is_marked_invalid(lie, check, monkeypatch):
    assert check in judged(lie, monkeypatch)


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("guesses", "other continuation"),
        ("one answer to all", "repeated answer"),
        ("does not compute", "beyond the bound"),
        ("all tokens at once", "no time between tokens"),
    ],
)
def test_a_lie_in_one_round_of_many_lengths_is_marked_invalid(
    lie, check, round_, monkeypatch
):
    work = Lognormal(prompt_tokens=16, output_tokens=32, sigma=0.4, longest=60)

    assert judged(None, monkeypatch, work=work) == []
    assert check in judged(lie, monkeypatch, work=work, lying=[round_])


def evidence_of(rounds, probes=()):
    """Rounds with some answers each, to prompts of their own."""
    return Evidence(
        case=CASE,
        rounds=[
            Round(
                run=Run(
                    samples=[
                        Sample(reported_tokens=len(ids), token_ids=ids)
                        for ids in answers
                    ],
                    seconds=1.0,
                ),
                asks=[
                    Ask(prompt=[number, place], max_tokens=len(ids))
                    for place, ids in enumerate(answers)
                ],
                floor=None,
            )
            for number, answers in enumerate(rounds)
        ],
        figures=[],
        counting=Counting(vocab_size=VOCAB),
        probes=probes,
        fresh=True,
    )


def answers(seed, alike):
    """Four answers of which some are one."""
    rng = random.Random(seed)
    others = [[rng.randrange(VOCAB) for _ in range(16)] for _ in range(4 - alike)]
    return [[7] * 16] * alike + others


@pytest.mark.parametrize(
    ("alike", "is_wrong"),
    [([4, 0, 0, 0], True), ([0, 1, 4, 0], True), ([4, 2, 1, 1, 2], False)],
    ids=["one answer", "an earlier answer", "a small model"],
)
def test_a_round_of_one_answer_is_invalid_unless_others_explain_it(alike, is_wrong):
    rounds = [answers(seed, count) for seed, count in enumerate(alike)]

    found = [reason.check for reason in reasons(evidence_of(rounds))]

    assert ("repeated answer" in found) == is_wrong


@pytest.mark.parametrize(
    ("wrong", "is_wrong"), [([4, 0, 0], True), ([4, 2, 1, 1, 2], False)]
)
def test_a_round_of_other_tokens_is_invalid_unless_others_explain_it(wrong, is_wrong):
    rounds = [answers(seed, 0) for seed in range(len(wrong))]
    probes = [
        Probe(
            ask=Ask(prompt=[1], max_tokens=1),
            expected=5,
            found=6 if place < count else 5,
            round=number,
            is_tail=False,
        )
        for number, count in enumerate(wrong)
        for place in range(4)
    ]

    found = [reason.check for reason in reasons(evidence_of(rounds, probes))]

    assert ("other continuation" in found) == is_wrong


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_the_probes_of_a_round_are_of_different_completions(count):
    [each] = evidence_of([answers(0, 0)[:1] * count]).rounds

    probes = probes_of([(each.run, each.asks)], Counting(vocab_size=VOCAB))

    prompts = {tuple(probe.ask.prompt) for probe in probes}
    assert len(probes) == len(prompts) == 4
    assert len({prompt[:2] for prompt in prompts}) == min(count, 4)
