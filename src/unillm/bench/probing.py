# SPDX-License-Identifier: Apache-2.0

"""Probes: completions continued once more from their middle, outside the measured time.

An engine that computed a completion gives the same next token for the prompt and the
tokens before it, but for near ties. Padding, guesses and answers of other prompts do
not continue so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from .samples import Run
from .tokens import SHORTEST_TAIL, Counting
from .workloads import BATCH, Ask, Case

PER_ROUND = 4
"""Most probes of a round of each kind: of tails that may be padding, and of middles."""


@attrs.frozen(kw_only=True)
class Probe:
    """One token of a completion that is asked for again."""

    ask: Ask
    expected: int
    round: int
    is_tail: bool
    """Whether the token is one of a tail that may be padding."""
    found: int | None = None
    """`None` before the answer, and where the request failed."""

    @property
    def holds(self) -> bool:
        """Whether the engine gave the same token again."""
        return self.found == self.expected


def probes_of(
    rounds: Sequence[tuple[Run, Sequence[Ask]]], counting: Counting
) -> list[Probe]:
    """Return the probes of each round; none where prompts or completions lack ids."""
    return [
        probe
        for number, (run, asks) in enumerate(rounds)
        for probe in _of_round(number, run, asks, counting)
    ]


def _of_round(
    number: int, run: Run, asks: Sequence[Ask], counting: Counting
) -> Iterator[Probe]:
    tails, whole = [], []
    for sample, ask in zip(run.samples, asks, strict=True):
        ids = sample.token_ids
        if not ids or len(ids) < 2 or not isinstance(ask.prompt, list):
            continue
        if not all(map(counting.is_in_vocabulary, ids)):
            continue  # the engine would refuse them as a prompt
        tail = counting.tail(ids)
        if tail >= SHORTEST_TAIL:
            # The first tokens of a tail may be the model's own.
            tails.append((ask, ids, len(ids) - tail // 2))
        else:
            whole.append((ask, ids))
    for ask, ids, at in tails[:PER_ROUND]:
        yield _probe(number, ask, ids, at, is_tail=True)
    # A round of few completions has several probes of each.
    count = min(PER_ROUND, len(whole))
    turns = -(-PER_ROUND // count) if count else 0
    middles = dict.fromkeys(
        (which, max(1, len(whole[which][1]) * (turn + 1) // (turns + 1)))
        for turn in range(turns)
        for which in (len(whole) * place // count for place in range(count))
    )
    for which, at in [*middles][:PER_ROUND]:
        yield _probe(number, *whole[which], at, is_tail=False)


def _probe(
    number: int, ask: Ask, ids: Sequence[int], at: int, *, is_tail: bool
) -> Probe:
    asked = Ask(prompt=[*ask.prompt, *ids[:at]], max_tokens=1)
    return Probe(ask=asked, expected=ids[at], round=number, is_tail=is_tail)


def case_of(probes: Sequence[Probe]) -> Case:
    """Return the case in which the probes are asked."""
    return Case(kind=BATCH, size=len(probes), requests=len(probes))


def answered(probes: Sequence[Probe], run: Run) -> list[Probe]:
    """Return the probes with their answers."""
    return [
        attrs.evolve(probe, found=next(iter(sample.token_ids or ()), None))
        for probe, sample in zip(probes, run.samples, strict=True)
    ]


def tails_hold(probes: Sequence[Probe]) -> bool:
    """Whether the model repeats EOS or padding tokens by itself, wherever it did."""
    tails = [probe.holds for probe in probes if probe.is_tail]
    return bool(tails) and all(tails)
