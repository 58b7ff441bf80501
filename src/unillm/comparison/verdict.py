# SPDX-License-Identifier: Apache-2.0

"""The answers of two sides to one prompt, and how they relate. Plain values only."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import attrs


@attrs.frozen
class Candidate:
    """A probable token at one position, with its log-probability."""

    token_id: int
    logprob: float
    text: str | None = None


@attrs.frozen(kw_only=True)
class Answer:
    """The answer of one side to one prompt: a completion, or an error."""

    prompt_token_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    candidates: Sequence[Sequence[Candidate]] | None = None
    """For each new token: itself first, then the most probable ones. `None` where the
    engine has no log-probabilities."""
    error: str | None = None
    """Class of the error that refused the prompt or ended the request."""
    message: str = ""


class Verdict(str, enum.Enum):
    """How two answers to one prompt relate. The first three are agreement."""

    EQUAL = "equal"
    """They have the same tokens and the same end."""
    NEAR_TIE = "near tie"
    """They diverge where both sides give the two tokens nearly the same probability."""
    BOTH_REFUSED = "both refused"
    """Both are the same error."""
    DIVERGED = "diverged"
    """They have different tokens."""
    ENDED_DIFFERENTLY = "ended differently"
    """One has more tokens after the common ones, or another reason for its end."""
    DIFFERENT_PROMPT = "different prompt"
    """The engines received different prompt tokens."""
    ONE_REFUSED = "refused"
    """One is an error, or the errors differ."""

    @property
    def agrees(self) -> bool:
        """Whether it counts as agreement."""
        return self in (Verdict.EQUAL, Verdict.NEAR_TIE, Verdict.BOTH_REFUSED)


@attrs.frozen(kw_only=True)
class Gap:
    """How much more probable a side's own token is to it than the other side's."""

    nats: float
    """Difference of the two log-probabilities."""
    is_exact: bool = True
    """False if the other token is not a candidate: the gap is at least this."""


@attrs.frozen(kw_only=True)
class Divergence:
    """The first position at which two completions have different tokens."""

    position: int
    """Index in the new tokens."""
    token_ids: tuple[int, int]
    texts: tuple[str | None, str | None]
    gaps: tuple[Gap | None, Gap | None]
    """Gap of each side; `None` where it has no log-probabilities."""

    def is_near(self, tolerance: float) -> bool:
        """Whether the gaps of both sides are known and at most *tolerance*."""
        return all(
            gap is not None and gap.is_exact and gap.nats <= tolerance
            for gap in self.gaps
        )


@attrs.frozen(kw_only=True)
class Comparison:
    """Both answers to one prompt, and how they relate."""

    answers: tuple[Answer, Answer]
    verdict: Verdict
    divergence: Divergence | None = None
    logprob_difference: float | None = None
    """Largest difference between the two log-probabilities of a common token before
    the divergence; `None` where there is none to compare."""


def compare(one: Answer, other: Answer, *, tolerance: float = 0.0) -> Comparison:
    """Compare two answers to the same prompt.

    Args:
        one: Answer of the first side.
        other: Answer of the second side.
        tolerance: Largest gap in nats, on both sides, that makes a divergence a near
            tie. 0 allows exact ties only.
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
    first, second = one.token_ids[at], other.token_ids[at]
    candidates = _candidates(one, at), _candidates(other, at)
    texts = {each.token_id: each.text for side in reversed(candidates) for each in side}
    return Divergence(
        position=at,
        token_ids=(first, second),
        texts=(texts.get(first), texts.get(second)),
        gaps=(
            _gap(candidates[0], first, second),
            _gap(candidates[1], second, first),
        ),
    )


def _candidates(answer: Answer, at: int) -> Sequence[Candidate]:
    return () if answer.candidates is None else answer.candidates[at]


def _gap(candidates: Sequence[Candidate], chosen: int, other: int) -> Gap | None:
    if not candidates:
        return None
    logprobs = {each.token_id: each.logprob for each in candidates}
    if other in logprobs:
        return Gap(nats=logprobs[chosen] - logprobs[other])
    return Gap(nats=logprobs[chosen] - min(logprobs.values()), is_exact=False)


def _logprob_difference(one: Answer, other: Answer) -> float | None:
    if one.candidates is None or other.candidates is None:
        return None
    common = _common_length(one, other)
    differences = [
        abs(a[0].logprob - b[0].logprob)
        for a, b in zip(one.candidates[:common], other.candidates[:common], strict=True)
    ]
    return max(filter(math.isfinite, differences), default=None)
