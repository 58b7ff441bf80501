# SPDX-License-Identifier: Apache-2.0

"""What two sides said of one prompt, and what that means. Plain values, no engine."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen
class Candidate:
    """A token that a side thought of, with its log-probability."""

    token_id: int
    logprob: float
    text: str | None = None


@attrs.frozen(kw_only=True)
class Answer:
    """What one side said of one prompt: a completion, or an error."""

    prompt_token_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    candidates: Sequence[Sequence[Candidate]] | None = None
    """For each new token: itself first, then the most probable ones. `None` where the
    engine has no log-probabilities."""
    error: str | None = None
    """Name of the class of what refused it or failed."""
    message: str = ""

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Answer:
        """Read what `attrs.asdict` made of one."""
        candidates = told.pop("candidates", None)
        if candidates is not None:
            candidates = [
                [Candidate(**each) for each in position] for position in candidates
            ]
        return cls(candidates=candidates, **told)


class Verdict(str, enum.Enum):
    """How two answers to one prompt relate. The first three are agreement."""

    EQUAL = "equal"
    """The same tokens, and ended alike."""
    NEAR_TIE = "near tie"
    """They part where each gives the other's token nearly the same probability."""
    BOTH_REFUSED = "both refused"
    """With the same error."""
    DIVERGED = "diverged"
    """They part."""
    ENDED_DIFFERENTLY = "ended differently"
    """The same tokens, of which one side has more, or another reason for the end."""
    DIFFERENT_PROMPT = "different prompt"
    """The engines were not given the same tokens."""
    ONE_REFUSED = "refused"
    """One side gave an error, or they gave different ones."""

    @property
    def agrees(self) -> bool:
        """Whether it counts as agreement."""
        return self in (Verdict.EQUAL, Verdict.NEAR_TIE, Verdict.BOTH_REFUSED)


@attrs.frozen(kw_only=True)
class Gap:
    """How much more probable a side found its own token than the other side's."""

    nats: float
    """Difference of the two log-probabilities."""
    is_exact: bool = True
    """False: the other's token is not among the most probable ones that were told, so
    the gap is at least this."""


@attrs.frozen(kw_only=True)
class Divergence:
    """The first place where two completions have different tokens."""

    position: int
    """In the new tokens, from 0."""
    token_ids: tuple[int, int]
    texts: tuple[str | None, str | None]
    gaps: tuple[Gap | None, Gap | None]
    """Of each side; `None` where it has no log-probabilities."""

    def is_near(self, tolerance: float) -> bool:
        """Whether both sides gave the two tokens probabilities that near."""
        return all(
            gap is not None and gap.is_exact and gap.nats <= tolerance
            for gap in self.gaps
        )


@attrs.frozen(kw_only=True)
class Comparison:
    """Both answers to one prompt and what they mean together."""

    index: int
    answers: tuple[Answer, Answer]
    verdict: Verdict
    divergence: Divergence | None = None
    logprob_difference: float | None = None
    """Largest difference between the two log-probabilities of a token that both chose,
    before they part; `None` where there is none to compare."""


def compare(
    index: int, one: Answer, other: Answer, *, tolerance: float = 0.0
) -> Comparison:
    """Compare two answers to the prompt at *index*.

    Args:
        index: Place of the prompt.
        one: Of the first side.
        other: Of the second side.
        tolerance: In nats: the largest gap, on both sides, that makes a divergence a
            near tie. 0 counts every divergence as one, but for exact ties.
    """
    divergence = None
    if one.error or other.error:
        same = one.error == other.error
        verdict = Verdict.BOTH_REFUSED if same else Verdict.ONE_REFUSED
    elif list(one.prompt_token_ids) != list(other.prompt_token_ids):
        verdict = Verdict.DIFFERENT_PROMPT
    elif (divergence := _divergence(one, other)) is not None:
        near = divergence.is_near(tolerance)
        verdict = Verdict.NEAR_TIE if near else Verdict.DIVERGED
    elif _end(one) != _end(other):
        verdict = Verdict.ENDED_DIFFERENTLY
    else:
        verdict = Verdict.EQUAL
    return Comparison(
        index=index,
        answers=(one, other),
        verdict=verdict,
        divergence=divergence,
        logprob_difference=_logprob_difference(one, other),
    )


def _end(answer: Answer) -> tuple[object, ...]:
    return len(answer.token_ids), answer.finish_reason, answer.stop_reason, answer.text


def _common_length(one: Answer, other: Answer) -> int:
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    shorter = min(len(one.token_ids), len(other.token_ids))
    return next((at for at, (a, b) in enumerate(pairs) if a != b), shorter)


def _divergence(one: Answer, other: Answer) -> Divergence | None:
    at = _common_length(one, other)
    if at == min(len(one.token_ids), len(other.token_ids)):
        return None
    ids = one.token_ids[at], other.token_ids[at]
    told = [_candidates(one, at), _candidates(other, at)]
    texts = [
        next((c.text for each in told for c in each if c.token_id == token_id), None)
        for token_id in ids
    ]
    return Divergence(
        position=at,
        token_ids=ids,
        texts=(texts[0], texts[1]),
        gaps=(_gap(told[0], *ids), _gap(told[1], *reversed(ids))),
    )


def _candidates(answer: Answer, at: int) -> Sequence[Candidate]:
    return () if answer.candidates is None else answer.candidates[at]


def _gap(candidates: Sequence[Candidate], chosen: int, other: int) -> Gap | None:
    if not candidates:
        return None
    known = {each.token_id: each.logprob for each in candidates}
    if other in known:
        return Gap(nats=known[chosen] - known[other])
    return Gap(nats=known[chosen] - min(known.values()), is_exact=False)


def _logprob_difference(one: Answer, other: Answer) -> float | None:
    if one.candidates is None or other.candidates is None:
        return None
    pairs = zip(
        one.candidates,
        other.candidates,
        range(_common_length(one, other)),
        strict=False,
    )
    differences = [abs(a[0].logprob - b[0].logprob) for a, b, _ in pairs]
    finite = [each for each in differences if math.isfinite(each)]
    return max(finite, default=None)
