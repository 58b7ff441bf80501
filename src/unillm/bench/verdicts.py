# SPDX-License-Identifier: Apache-2.0

"""Verdicts: whether the figures of a case can be true. Pure functions of samples.

A case that fails a check is INVALID: its figures are shown as claims, never as results.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from .figures import Figure, Round, lateness, ttfts
from .probing import PER_ROUND, Probe
from .samples import Sample
from .statistics import percentile
from .tokens import SHORTEST_TAIL, Counting
from .workloads import OPEN, Ask, Case

CLOCK_SHARE, CLOCK_S = 0.05, 0.02
"""Median difference of the two processes' clocks that rounds may have: the way of the
lines and the wait for a core are in it."""

DRIFT_SHARE = 0.005
"""Difference of the machine's two clocks over a measurement."""

SLOWDOWN = 0.9
"""A device whose clock falls below this share of its highest has changed."""

CLIENT_SHARE = 0.9
"""Share of a core at which a client that sends over HTTP is the bottleneck."""

LATE_S = 0.05
"""The 99th percentile of how late the requests of an open loop may be sent."""

FEWEST_PROMPTS = 4
"""Prompts of which one answer to most says that they were not read."""

CHANCE = 0.01
"""Probability above which one round is as the others by chance."""


@attrs.frozen(kw_only=True)
class Reason:
    """Why a case is INVALID."""

    check: str
    """Name of the check, as the reference page lists it."""
    text: str


@attrs.frozen(kw_only=True)
class Evidence:
    """Everything that is known of one case on one side."""

    case: Case
    rounds: Sequence[Round]
    figures: Sequence[Figure]
    counting: Counting
    probes: Sequence[Probe]
    fresh: bool
    """Whether each prompt is new, so that no cache can have it."""
    drift: float = 0.0
    """Share by which the machine's clocks disagree."""

    def samples(self) -> Iterator[tuple[Sample, Ask]]:
        """Yield each sample with its ask."""
        for each in self.rounds:
            yield from zip(each.run.samples, each.asks, strict=True)


def reasons(evidence: Evidence) -> list[Reason]:
    """Return why the figures of a case cannot be true; empty for a valid case."""
    return [
        Reason(check=check.__name__.strip("_").replace("_", " "), text=text)
        for check in CHECKS
        if (text := check(evidence)) is not None
    ]


# -------------------------------------------------------------------------- the counts


def _failed_request(evidence: Evidence) -> str | None:
    errors = [s.error for s, _ in evidence.samples() if s.error is not None]
    if not errors:
        return None
    return f"{_of(errors, evidence)} failed, the first with: {errors[0]}"


def _wrong_length(evidence: Evidence) -> str | None:
    wrong = [
        (sample, ask)
        for sample, ask in _answered(evidence)
        if _length(sample) != ask.max_tokens
    ]
    if not wrong:
        return None
    sample, ask = wrong[0]
    return (
        f"{_of(wrong, evidence)} have another length than asked, the first "
        f"{_length(sample)} tokens instead of {ask.max_tokens}, ended by "
        f"{sample.finish_reason!r}; EOS is ignored on all sides"
    )


def _wrong_count(evidence: Evidence) -> str | None:
    wrong = [
        sample
        for sample, _ in _answered(evidence)
        if sample.token_ids is not None
        and sample.reported_tokens != len(sample.token_ids)
    ]
    if not wrong:
        return None
    assert wrong[0].token_ids is not None
    return (
        f"{_of(wrong, evidence)} report a number of tokens that is not that of their "
        f"ids, the first {wrong[0].reported_tokens} for {len(wrong[0].token_ids)} ids"
    )


def _ids_outside_the_vocabulary(evidence: Evidence) -> str | None:
    counting = evidence.counting
    wrong = [
        sample
        for sample, _ in _answered(evidence)
        if not all(map(counting.is_in_vocabulary, sample.token_ids or ()))
    ]
    if not wrong:
        return None
    return (
        f"{_of(wrong, evidence)} have ids outside the vocabulary of "
        f"{counting.vocab_size}: the engine marks padding with them"
    )


def _padding(evidence: Evidence) -> str | None:
    tails = [
        tail
        for sample, _ in _answered(evidence)
        if (tail := evidence.counting.tail(sample.token_ids or ())) >= SHORTEST_TAIL
    ]
    if not tails or evidence.counting.tails_count:
        return None
    return (
        f"{_of(tails, evidence)} end in one EOS or padding token again and again, up "
        f"to {max(tails)} times, and the model does not go on so by itself"
    )


# -------------------------------------------------------------------------- the prompts


def _other_prompt(evidence: Evidence) -> str | None:
    wrong = [
        (sample, ask)
        for sample, ask in _answered(evidence)
        if sample.same_prompt is False
        or (
            None not in (sample.num_prompt_tokens, ask.num_prompt_tokens)
            and sample.num_prompt_tokens != ask.num_prompt_tokens
        )
    ]
    if not wrong:
        return None
    sample, ask = wrong[0]
    return (
        f"{_of(wrong, evidence)} had another prompt than was sent, the first "
        f"{sample.num_prompt_tokens} tokens for {ask.num_prompt_tokens}"
    )


def _prompts_from_a_cache(evidence: Evidence) -> str | None:
    cached = [s for s, _ in evidence.samples() if s.num_cached_tokens]
    if not cached or not evidence.fresh:
        return None
    return (
        f"{_of(cached, evidence)} took a part of the prompt from a cache, though every "
        "prompt is new"
    )


def _repeated_answer(evidence: Evidence) -> str | None:
    """One answer to many prompts: the engine did not read them."""
    whole, *rounds = map(_answers, _groups(evidence))
    count = _alike(whole.values())
    if len(whole) >= FEWEST_PROMPTS and count > len(whole) / 2:
        return (
            f"{count} of {len(whole)} different prompts have one answer, token by token"
        )
    for answers in rounds:
        if len(answers) < FEWEST_PROMPTS or _alike(answers.values()) < len(answers):
            continue
        longest = max(answers.values(), key=len)
        others = [ids for prompt, ids in whole.items() if prompt not in answers]
        alike = [ids for ids in others if _alike([ids, longest]) > 1]
        if not _by_chance(len(alike), len(others), len(answers), len(rounds)):
            return (
                f"all {len(answers)} different prompts of a round have one answer, "
                "token by token"
            )
    return None


def _answers(group: Iterable[tuple[Sample, Ask]]) -> dict[str, tuple[int, ...]]:
    """Return the answers of some length, by prompt."""
    return {
        repr(ask.prompt): tuple(sample.token_ids)
        for sample, ask in group
        if sample.token_ids and len(sample.token_ids) >= SHORTEST_TAIL
    }


def _by_chance(found: int, total: int, count: int, rounds: int) -> bool:
    """Whether all *count* of one round may be what *found* of *total* others are.

    A small model has one answer to a part of all random prompts, and rounding decides
    a part of its tokens.
    """
    share = found / total if total else 0.0
    return bool(rounds * share**count > CHANCE)


def _alike(answers: Iterable[tuple[int, ...]]) -> int:
    """Return how many answers are one answer, cut at their own lengths."""
    most, beginnings = 0, list[tuple[int, ...]]()
    for answer in sorted(answers):  # a beginning stands before what goes on from it
        while beginnings and answer[: len(beginnings[-1])] != beginnings[-1]:
            beginnings.pop()
        beginnings.append(answer)
        most = max(most, len(beginnings))
    return most


def _other_continuation(evidence: Evidence) -> str | None:
    """The engine did not compute what it handed out; rounding decides few tokens."""
    middles = [probe for probe in evidence.probes if not probe.is_tail]
    wrong = [probe for probe in middles if not probe.holds]
    asked = Counter(probe.round for probe in middles)
    failed = Counter(probe.round for probe in wrong)
    if len(middles) >= 2 and len(wrong) > len(middles) / 2:
        return (
            f"{len(wrong)} of {len(middles)} completions go on with another token when "
            "they are continued from their middle"
        )
    lost = [
        n
        for n, count in asked.items()
        if count == failed[n] == PER_ROUND
        and not _by_chance(
            len(wrong) - count, len(middles) - count, count, len(evidence.rounds)
        )
    ]
    if not lost:
        return None
    return (
        f"all {PER_ROUND} completions of round {lost[0] + 1} go on with another token "
        "when they are continued from their middle"
    )


# ---------------------------------------------------------------------------- the times


def _beyond_the_bound(evidence: Evidence) -> str | None:
    beyond = []
    for each in evidence.figures:
        passed = [
            (share, value, bound)
            for share, value, bound in zip(
                each.shares, each.values, each.bounds, strict=False
            )
            if share > 1
        ]
        if passed:
            _, value, bound = max(passed)
            beyond.append(
                f"{each.name} {value:.4g} {each.unit} (bound {bound:.4g}; "
                f"{len(passed)} of {len(each.values)} rounds)"
            )
    if not beyond:
        return None
    return f"no engine on this device can reach {', '.join(beyond)}"


def _early_first_token(evidence: Evidence) -> str | None:
    early = [
        (first, each.floor.first_token_s)
        for each in evidence.rounds
        if each.floor is not None
        for first in ttfts(each.run.samples)
        if first < each.floor.first_token_s
    ]
    if not early:
        return None
    return (
        f"{_of(early, evidence)} have their first token after {early[0][0] * 1e3:.3g} "
        f"ms, and reading the prompt takes {early[0][1] * 1e3:.3g} ms at least"
    )


def _impossible_times(evidence: Evidence) -> str | None:
    wrong = [
        sample
        for each in evidence.rounds
        for sample in each.run.samples
        if sample.error is None and not _is_in_order(sample, each.run.seconds)
    ]
    if not wrong:
        return None
    return f"{_of(wrong, evidence)} have times outside the run, or not in their order"


def _no_time_between_tokens(evidence: Evidence) -> str | None:
    """All tokens at once: the latencies are those of a delivery, not of the engine."""
    shortest = 2
    for group in _groups(evidence):
        several = [s for s, _ in group if s.reported_tokens >= shortest]
        at_once = [sample for sample in several if sample.first_s == sample.last_s]
        if len(at_once) > len(several) / 2:
            return f"{_of(at_once, evidence)} have all their tokens at one moment"
        # A few tokens of one round may have come together by chance.
        shortest = SHORTEST_TAIL
    return None


def _clock_of_the_side(evidence: Evidence) -> str | None:
    runs = [each.run for each in evidence.rounds if each.run.outer_seconds]
    if not runs:
        return None
    middle = percentile([run.outer_seconds - run.whole_seconds for run in runs], 50)
    outer = percentile([run.outer_seconds for run in runs], 50)
    if -CLOCK_S <= middle <= CLOCK_S + CLOCK_SHARE * outer:
        return None
    return (
        f"a round took {outer - middle:.3f} s on the side's clock and {outer:.3f} s on "
        "the clock of this process"
    )


def _drifting_clock(evidence: Evidence) -> str | None:
    if evidence.drift <= DRIFT_SHARE:
        return None
    return (
        f"the machine's two clocks disagree by {evidence.drift:.2%} over the "
        "measurement; nothing measured with them holds"
    )


def _slower_device(evidence: Evidence) -> str | None:
    found = [each.run.clock_mhz for each in evidence.rounds]
    known = [clock for clock in found if clock is not None]
    if not known or min(known) >= SLOWDOWN * max(known):
        return None
    return (
        f"the device's clock fell from {max(known):.0f} to {min(known):.0f} MHz "
        "between rounds"
    )


def _busy_client(evidence: Evidence) -> str | None:
    shares = [
        each.run.client_cpu_s / each.run.seconds
        for each in evidence.rounds
        if each.run.client_cpu_s is not None
    ]
    if not shares or percentile(shares, 50) <= CLIENT_SHARE:
        return None
    return (
        f"the client used {percentile(shares, 50):.0%} of a core: the client was "
        "measured, not the server"
    )


def _late_client(evidence: Evidence) -> str | None:
    if evidence.case.kind != OPEN:
        return None
    late = max(map(lateness, evidence.rounds))
    if late <= LATE_S:
        return None
    return (
        f"requests were sent up to {late * 1e3:.0f} ms after their arrival time, so "
        "the rate was not the one asked for"
    )


CHECKS: tuple[Callable[[Evidence], str | None], ...] = (
    _failed_request,
    _wrong_length,
    _wrong_count,
    _ids_outside_the_vocabulary,
    _padding,
    _other_prompt,
    _prompts_from_a_cache,
    _repeated_answer,
    _other_continuation,
    _beyond_the_bound,
    _early_first_token,
    _impossible_times,
    _no_time_between_tokens,
    _clock_of_the_side,
    _drifting_clock,
    _slower_device,
    _busy_client,
    _late_client,
)
"""All checks, in the order of the reference page."""


def _answered(evidence: Evidence) -> Iterator[tuple[Sample, Ask]]:
    for sample, ask in evidence.samples():
        if sample.error is None:
            yield sample, ask


def _groups(evidence: Evidence) -> Iterator[list[tuple[Sample, Ask]]]:
    """Yield the answered requests of all rounds, and then of each: one may lie."""
    yield list(_answered(evidence))
    for each in evidence.rounds:
        yield list(_answered(attrs.evolve(evidence, rounds=[each])))


def _length(sample: Sample) -> int:
    if sample.token_ids is None:
        return sample.reported_tokens
    return len(sample.token_ids)


def _is_in_order(sample: Sample, seconds: float) -> bool:
    times = (0.0, sample.sent_s, sample.first_s, sample.last_s, seconds)
    known = [time for time in times if time is not None]
    # The clock of a request and the clock of its run are read one after the other.
    return all(b - a >= -1e-3 for a, b in itertools.pairwise(known))


def _of(found: Sequence[object], evidence: Evidence) -> str:
    total = sum(len(each.run.samples) for each in evidence.rounds)
    return f"{len(found)} of {total} requests"
