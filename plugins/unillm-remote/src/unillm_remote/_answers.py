# SPDX-License-Identifier: Apache-2.0

"""The answer to one request: its parts, checked, as outputs of the contract.

A server is not trusted to keep the contract. An answer that does not keep it fails its
request, with the reason, so that no caller gets ids that the model did not choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from unillm.backend import EngineOutput, TokenLogprobs

if TYPE_CHECKING:
    from unillm.backend import EngineRequest

LOWEST = -9999.0
"""Stands for minus infinity in the JSON of vLLM, SGLang and unillm."""


class AnswerError(Exception):
    """An answer breaks the contract, or has another form; the text says why."""


@attrs.frozen(kw_only=True)
class Part:
    """The news of one event of a server."""

    token_ids: Sequence[int] = ()
    """New ids only."""
    logprobs: Sequence[TokenLogprobs] | None = None
    prompt_logprobs: Sequence[TokenLogprobs] | None = None
    end: str | None = None
    """The server's word for the end: "stop" or "length"; others are failures."""
    num_cached_tokens: int | None = None


class Answer:
    """Collects the parts of one answer.

    Args:
        request: That the server answers.
        vocab_size: New ids are below it.
    """

    def __init__(self, request: EngineRequest, *, vocab_size: int) -> None:
        self._request = request
        self._vocab_size = vocab_size
        self._asked = request.params.logprobs is not None
        self._end: str | None = None
        self._held = Part()
        self._last_id: int | None = None
        self._num_cached = 0
        self._prompt_logprobs: Sequence[TokenLogprobs] | None = None
        self.num_tokens = 0
        """New ids so far."""
        self.cut = False
        """Whether a stop id ended the answer of a server that goes on after it."""

    @property
    def ended(self) -> bool:
        """Whether the end of the answer is known."""
        return self._end is not None

    def add(self, part: Part) -> EngineOutput | None:
        """Return the output for a part; `None` if it has no new id, or is the last.

        Raises:
            AnswerError: The part cannot be right.
        """
        if part.num_cached_tokens is not None:
            self._num_cached = part.num_cached_tokens
        if part.prompt_logprobs is not None:
            self._prompt_logprobs = part.prompt_logprobs
        if part.token_ids:
            part = self._until_stop(part)
            self._check(part)
            self._last_id = part.token_ids[-1]
        if part.end is not None:
            # Counts of tokens follow the last ids.
            self._end, self._held = part.end, part
            self._check_end(part)
            return None
        if not part.token_ids:
            return None
        return self._output(part)

    def _until_stop(self, part: Part) -> Part:
        """Return a part up to its first stop id, which ends the answer."""
        request = self._request
        stops = (n for n, i in enumerate(part.token_ids) if i in request.stop_token_ids)
        at = next(stops, None)
        if at is None:
            return part
        if self.num_tokens + at < request.params.min_tokens:
            raise AnswerError(
                f"the server stopped after {self.num_tokens + at} new tokens, and "
                f"min_tokens is {request.params.min_tokens}"
            )
        self.cut = part.end is None
        return attrs.evolve(
            part,
            token_ids=part.token_ids[: at + 1],
            logprobs=part.logprobs and part.logprobs[: at + 1],
            end="stop",
        )

    def last(self) -> EngineOutput:
        """Return the last output, once the server has sent everything.

        Raises:
            AnswerError: The server has not said how the answer ends.
        """
        if self._end is None:
            raise AnswerError(
                f"the answer broke off after {self.num_tokens} of at most "
                f"{self._request.max_new_tokens} new tokens"
            )
        output = self._output(self._held)
        if self._end == "length":
            return attrs.evolve(output, finish_reason="length")
        return attrs.evolve(output, finish_reason="stop", stop_token_id=self._last_id)

    def _output(self, part: Part) -> EngineOutput:
        prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        return EngineOutput(
            request_id=self._request.request_id,
            token_ids=part.token_ids,
            logprobs=part.logprobs if self._asked else None,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=min(
                self._num_cached, len(self._request.prompt_token_ids) - 1
            ),
        )

    def _check(self, part: Part) -> None:
        ids, request = part.token_ids, self._request
        if self.ended:
            raise AnswerError("ids follow the end of the answer")
        wrong = [i for i in ids if type(i) is not int or not 0 <= i < self._vocab_size]
        if wrong:
            raise AnswerError(
                f"{wrong[0]!r} is not an id of a vocabulary of {self._vocab_size}. Is "
                "the model of this generator the one that the server serves?"
            )
        if self._asked and len(part.logprobs or ()) != len(ids):
            raise AnswerError(
                f"{len(ids)} new ids have {len(part.logprobs or ())} log-probabilities"
            )
        self.num_tokens += len(ids)
        if self.num_tokens > request.max_new_tokens:
            raise AnswerError(
                f"the server sent {self.num_tokens} new ids, and "
                f"{request.max_new_tokens} were asked for"
            )

    def _check_end(self, part: Part) -> None:
        request = self._request
        if part.end == "length":
            if self.num_tokens != request.max_new_tokens:
                raise AnswerError(
                    f"the server ended after {self.num_tokens} of "
                    f"{request.max_new_tokens} new tokens for a limit of its own"
                )
            return
        if part.end != "stop":
            raise AnswerError(f"the server ended the request with {part.end!r}")
        if self._last_id not in request.stop_token_ids:
            raise AnswerError(
                f"the server stopped at token {self._last_id}, at which this request "
                "does not end: it adds stop ids of its own"
            )


def checked_ids(value: Any) -> list[int]:
    """Return a list of ids out of JSON.

    Raises:
        AnswerError: It is none.
    """
    if not isinstance(value, list):
        raise AnswerError(f"ids must be a list, got {value!r:.80}")
    return value


def read_logprob(value: Any) -> float:
    """Return a log-probability out of JSON, in which `LOWEST` is minus infinity.

    Raises:
        AnswerError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AnswerError(f"a log-probability must be a number, got {value!r:.80}")
    return -math.inf if value <= LOWEST else float(value)


def read_rank(value: Any) -> int:
    """Return a rank out of JSON.

    Raises:
        AnswerError: It is none.
    """
    if type(value) is not int or value < 1:
        raise AnswerError(f"a rank must be an integer from 1, got {value!r:.80}")
    return value


def ranked(
    logprob: float, rank: int, known: dict[int, float], *, count: int
) -> TokenLogprobs:
    """Return the log-probabilities of one position.

    Args:
        logprob: Of the chosen token.
        rank: Of the chosen token.
        known: Log-probabilities by id: those of the most probable tokens, as many as
            the request asked for, and perhaps the chosen token's.
        count: Most probable tokens that the request asked for; -1 for all.
    """
    best = sorted(known.items(), key=lambda each: -each[1])
    if count >= 0:
        best = best[:count]
    return TokenLogprobs(
        logprob=logprob,
        rank=rank,
        top_ids=[i for i, _ in best],
        top_logprobs=[value for _, value in best],
    )
