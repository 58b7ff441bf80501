# SPDX-License-Identifier: Apache-2.0

"""The judge: each new token of a request against the oracle's scores at its position.

The oracle continues the engine's own tokens, so one different token is one fault. A
greedy token has the best score, but for rounding. A drawn token is possible under the
request's rules and filters, and gives a `Draw`, of which `frequencies` judges many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ..reference import ReferenceScript, distribution

if TYPE_CHECKING:
    from ...engines.base import EngineOutput, EngineRequest, TokenLogprobs

NEAR = 0.01
"""Scores this near count as equal. Float32 on any device is off by some 0.0001, which a
penalty of 3 and a temperature of 0.3 turn into 0.001."""


@attrs.frozen
class Draw:
    """One drawn token."""

    request: EngineRequest
    position: int
    probabilities: Any
    """``[vocab]``, by the oracle."""
    token_id: int


@attrs.frozen
class Verdict:
    """The judgement on one request."""

    fault: str = ""
    """What is wrong; empty for nothing."""
    draws: Sequence[Draw] = ()
    position: int = 0
    """New tokens before the fault."""


class _FaultError(Exception):
    """Ends the judgement of a request; the message is the fault."""


class Judge:
    """Judges requests by the bundled model.

    Args:
        script: The oracle.
        logprob_tolerance: Rounding error that a log-probability may have.
    """

    def __init__(self, script: ReferenceScript, *, logprob_tolerance: float) -> None:
        self._script = script
        self._near = logprob_tolerance

    def judge(
        self,
        request: EngineRequest,
        outputs: Sequence[EngineOutput],
        *,
        aborted: bool = False,
    ) -> Verdict:
        """Return the verdict on the outputs of a request.

        Args:
            request: With its compiled grammar.
            outputs: All of them, in order.
            aborted: Whether it was aborted, so that it has no end.
        """
        draws: list[Draw] = []
        position = 0
        try:
            ids = self._ids(request, outputs)
            for position, token_id in enumerate(ids):
                draws += self._token(request, ids, position, token_id)
            self._end(request, ids, outputs, aborted=aborted)
            self._logprobs(request, ids, outputs)
        except _FaultError as fault:
            return Verdict(str(fault), draws, position)
        return Verdict("", draws)

    def _ids(
        self, request: EngineRequest, outputs: Sequence[EngineOutput]
    ) -> list[int]:
        """Return the new ids, if all values of the outputs have the right types."""
        for output in outputs:
            for token_id in output.token_ids:
                # numpy's and torch's integers cannot cross a pipe as JSON.
                _check(
                    type(token_id) is int,
                    f"a new id is {token_id!r} of {type(token_id).__name__}, not int",
                )
            stop = output.stop_token_id
            _check(
                stop is None or type(stop) is int,
                f"stop_token_id is {stop!r} of {type(stop).__name__}",
            )
            cached = output.num_cached_tokens
            _check(
                isinstance(cached, int) and 0 <= cached < len(request.prompt_token_ids),
                f"num_cached_tokens is {cached!r} of a prompt of "
                f"{len(request.prompt_token_ids)}",
            )
        ids = [token_id for output in outputs for token_id in output.token_ids]
        _check(
            len(ids) <= request.max_new_tokens,
            f"{len(ids)} new ids, more than max_new_tokens={request.max_new_tokens}",
        )
        size = self._script.model.vocab_size
        outside = [each for each in ids if not 0 <= each < size]
        _check(not outside, f"ids {outside} are outside of the vocabulary")
        # One pass for all positions, of which each is then in the oracle's cache.
        self._script.model.logits([*request.prompt_token_ids, *ids])
        return ids

    def _token(
        self, request: EngineRequest, ids: list[int], position: int, token_id: int
    ) -> list[Draw]:
        generated = ids[:position]
        if position and ids[position - 1] in request.stop_token_ids:
            raise _FaultError(
                f"new token {position} is the stop id {ids[position - 1]}, and the "
                "request went on"
            )
        scores = self._script.scores(request, generated)
        best = int(scores.argmax())
        at = f"new token {position + 1} is {token_id}"
        if not np.isfinite(scores[token_id]):
            why = _why_forbidden(request, generated, token_id)
            raise _FaultError(f"{at}, which {why}")
        if request.params.greedy:
            if scores[token_id] < scores[best] - NEAR:
                raise _FaultError(
                    f"{at} with a score of {scores[token_id]:.4f} after all rules; "
                    f"the best is {best} with {scores[best]:.4f}"
                )
            return []
        found = distribution(scores, request.params)
        kept = np.flatnonzero(found)
        if not found[token_id] and scores[token_id] < scores[kept].min() - NEAR:
            raise _FaultError(
                f"{at} with a score of {scores[token_id]:.4f} after all rules; the "
                f"filters keep {len(kept)} tokens, from {best} with "
                f"{scores[best]:.4f} down to {scores[kept].min():.4f}"
            )
        return [Draw(request, position, found, token_id)]

    def _end(
        self,
        request: EngineRequest,
        ids: list[int],
        outputs: Sequence[EngineOutput],
        *,
        aborted: bool,
    ) -> None:
        reasons = [o.finish_reason for o in outputs if o.finish_reason is not None]
        if aborted and not reasons:
            return
        _check(len(reasons) == 1, f"it ended {len(reasons)} times: {reasons}")
        last = outputs[-1]
        _check(last.finish_reason is not None, "an output follows its end")
        stopped = bool(ids) and ids[-1] in request.stop_token_ids
        if stopped:
            expected, stop = "stop", ids[-1]
        elif len(ids) == request.max_new_tokens:
            expected, stop = "length", None
        else:
            scores = self._script.scores(request, ids)
            _check(
                not np.isfinite(scores.max()) and last.finish_reason == "error",
                f"it ended with {last.finish_reason!r} ({last.error or 'no error'}) "
                f"after {len(ids)} of {request.max_new_tokens} tokens, and the last "
                f"one, {ids[-1] if ids else None}, is not a stop id",
            )
            return
        given = (last.finish_reason, last.stop_token_id)
        _check(
            given == (expected, stop),
            f"finish_reason and stop_token_id are {given}, not {(expected, stop)}",
        )

    def _logprobs(
        self,
        request: EngineRequest,
        ids: list[int],
        outputs: Sequence[EngineOutput],
    ) -> None:
        asked = request.params.logprobs
        found: list[TokenLogprobs] = []
        for output in outputs:
            given = output.logprobs
            if asked is None:
                _check(given is None, "logprobs that the request did not ask for")
            elif output.token_ids:
                _check(
                    given is not None and len(given) == len(output.token_ids),
                    "not one entry of logprobs for each new id",
                )
                found += given or ()
        for position, at in enumerate(found):
            context = [*request.prompt_token_ids, *ids[:position]]
            where = f"new token {position + 1}"
            self._entry(at, context, ids[position], asked or 0, where)
        self._prompt_logprobs(request, outputs)

    def _prompt_logprobs(
        self, request: EngineRequest, outputs: Sequence[EngineOutput]
    ) -> None:
        asked = request.params.prompt_logprobs
        given = [o.prompt_logprobs for o in outputs if o.prompt_logprobs is not None]
        if asked is None or not outputs:
            _check(not given, "prompt_logprobs that the request did not ask for")
            return
        prompt = request.prompt_token_ids
        _check(len(given) == 1, f"prompt_logprobs came {len(given)} times")
        _check(
            len(given[0]) == len(prompt) - 1,
            f"{len(given[0])} prompt_logprobs of a prompt of {len(prompt)}",
        )
        for index, at in enumerate(given[0], 1):
            where = f"prompt token {index + 1}"
            self._entry(at, prompt[:index], prompt[index], asked, where)

    def _entry(
        self,
        at: TokenLogprobs,
        context: Sequence[int],
        token_id: int,
        count: int,
        where: str,
    ) -> None:
        logprobs = self._script.model.logprobs(context)
        own = logprobs[token_id]
        near = max(self._near, abs(own) * 1e-3)
        _check(
            abs(at.logprob - own) <= near,
            f"the logprob of {where} is {at.logprob}, not {own:.5f}",
        )
        better = int((logprobs > own + near).sum())
        as_good = int((logprobs >= own - near).sum())
        _check(
            better < at.rank <= max(as_good, better + 1)
            if at.rank is not None
            else count == 0,
            f"the rank of {where} is {at.rank}, not {better + 1}",
        )
        size = len(logprobs)
        count = size if count < 0 else min(count, size)
        _check(
            len(at.top_ids) == len(at.top_logprobs) == len(set(at.top_ids)) == count,
            f"{where} has {len(at.top_ids)} top_ids, not {count}",
        )
        for top_id, value in zip(at.top_ids, at.top_logprobs, strict=True):
            true = logprobs[top_id]
            _check(
                abs(value - true) <= max(self._near, abs(true) * 1e-3),
                f"the logprob of {top_id} among the top of {where} is {value}, not "
                f"{true:.5f}",
            )
        left_out = np.delete(logprobs, list(at.top_ids))
        _check(
            not count
            or not len(left_out)
            or left_out.max() <= at.top_logprobs[-1] + near,
            f"the top_ids of {where} leave out a more probable token",
        )


def _check(holds: bool, fault: str) -> None:
    if not holds:
        raise _FaultError(fault)


def _why_forbidden(request: EngineRequest, generated: list[int], token_id: int) -> str:
    """Name the rule that forbids a token."""
    params = request.params
    if len(generated) < params.min_tokens and token_id in request.stop_token_ids:
        return f"is a stop id before min_tokens={params.min_tokens}"
    allowed = params.allowed_token_ids
    if allowed is not None and token_id not in allowed:
        return "is not in allowed_token_ids"
    for *before, last in request.bad_words_token_ids:
        if last == token_id and generated[len(generated) - len(before) :] == before:
            return f"completes the bad word {[*before, last]}"
    return "the grammar does not allow here"
