# SPDX-License-Identifier: Apache-2.0

"""Random requests, and the script that gives their tokens.

Every token is a function of the request's own seed and of the token's number, so any
influence of other requests shows in the tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from unillm.engines.base import EngineRequest

END = 0
"""The model's EOS token id. Ids 1 to 26 are the letters a to z."""

SECOND_END = 27
"""An id that some requests have in their `stop_token_ids`."""

BROKEN = 28
"""An id for which the tokenizer raises an error."""

VOCAB_SIZE = 29
_LETTERS = 26
_LONGEST = 40


@attrs.frozen(kw_only=True)
class Job:
    """One request and its caller's plans."""

    prompt_length: int
    seeds: tuple[int, ...]
    """One for each completion."""
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    priority: int = 0
    patience: float | None = None
    """Time until its deadline."""
    refused: bool = False
    """Whether the engine refuses the request."""
    cancel_after: int | None = None
    """Turns of the loop after which the caller cancels the request."""


def draw_job(rng: random.Random, max_model_len: int) -> Job:
    """Draw a request that fits a context."""
    longest = min(max_model_len - 1, 24)
    prompt_length = rng.randint(1, longest)
    max_tokens = min(1 + int(rng.expovariate(1 / 9)), max_model_len - prompt_length)
    seed = rng.getrandbits(40)
    return Job(
        prompt_length=prompt_length,
        seeds=tuple(seed + index for index in range(_rarely(rng, 0.1, 3) or 1)),
        max_tokens=max_tokens,
        min_tokens=min(_rarely(rng, 0.2, 6), max_tokens),
        stop_token_ids=(SECOND_END,) if rng.random() < 0.2 else (),
        stop=_draw_stop(rng) if rng.random() < 0.2 else (),
        ignore_eos=rng.random() < 0.1,
        priority=_rarely(rng, 0.3, 3),
        patience=rng.randint(1, 60) if rng.random() < 0.1 else None,
        refused=rng.random() < 0.01,
        cancel_after=rng.randint(0, 30) if rng.random() < 0.1 else None,
    )


def _rarely(rng: random.Random, chance: float, high: int) -> int:
    return rng.randint(1, high) if rng.random() < chance else 0


def _draw_stop(rng: random.Random) -> tuple[str, ...]:
    return tuple(
        "".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 2)))
        for _ in range(rng.randint(1, 3))
    )


def natural_token(seed: int, number: int) -> int:
    """Return a request's new token of a *number* from 0, without `min_tokens`."""
    mixed = (seed * 0x9E3779B1 + number * 0x85EBCA77) & 0xFFFFFFFF
    mixed ^= mixed >> 15
    mixed = (mixed * 0x2C1B3C6D) & 0xFFFFFFFF
    mixed ^= mixed >> 13
    if number >= _LONGEST or mixed % 16 == 0:
        return END
    if mixed % 97 == 1:
        return SECOND_END
    if mixed % 1009 == 2:
        return BROKEN
    return 1 + mixed % _LETTERS


def say(request: EngineRequest, number: int) -> int:
    """Return a request's new token of a *number* from 0."""
    token_id = natural_token(request.seed, number)
    if token_id in request.stop_token_ids and number < request.params.min_tokens:
        return 1 + (request.seed + number) % _LETTERS
    return token_id


class Letters:
    """A tokenizer of single letters, which raises an error for one id."""

    eos_token_id = END

    def encode(self, text: str) -> list[int]:
        """Return an id for each letter."""
        return [1 + ord(letter) - ord("a") for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return a letter for each id."""
        if BROKEN in ids:
            raise ValueError("the id has no text")
        return "".join(
            chr(ord("a") + token_id - 1) if 1 <= token_id <= _LETTERS else ""
            for token_id in ids
        )
