# SPDX-License-Identifier: Apache-2.0

"""Requests as the core makes them, and the answers that the model gives to them.

The bundled model answers these prompts by a wide margin: at every step the best logit
is far above the second, so that rounding cannot change a token.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines.base import EngineRequest
from ..model.checkpoint import read_config
from ..model.find import find_model
from ..params import SamplingParams
from ..text.loading import read_model_text
from .backends import reference_script

if TYPE_CHECKING:
    from ..engines.base import EngineLimits
    from ..text.loading import ModelText

COUNT = "Count from 3 to 9:"
ANSWERS = {
    COUNT: "3 4 5 6 7 8 9",
    "Add 17 and 25:": "42",
    "Spell the word apple:": "a p p l e",
    "List the days from Tuesday:": "Tuesday Wednesday Thursday Friday Saturday Sunday "
    "Monday",
    "Count from 31 to 27:": "31 30 29 28 27",
    "Name the day after Monday:": "Tuesday",
    "Repeat: blue cat über 🙂:": "blue cat über 🙂",
    "Count from 40 to 52:": "40 41 42 43 44 45 46 47 48 49 50 51 52",
    "Add 8 and 30:": "38",
    "Spell the word house:": "h o u s e",
}
"""Prompts and the model's answers, up to the EOS token."""

UNSURE = "Hello world"
"""A prompt without a clear answer, so that draws differ."""

MARGIN = 0.2
"""The best logit is at least this far above the second wherever ids are compared.
Float32 on any device is off by some 0.0001."""


class Asker:
    """Makes requests, and knows the answers without the engine.

    Attributes:
        tokenizer: Of the bundled model.
        script: The oracle.
        model: The bundled model, computed in numpy.
        eos_ids: All EOS ids of the model.
        primary_eos_id: The tokenizer's own one, which ends the turn of a chat.
        pad_id: The id that the model names for padding.
    """

    def __init__(self, text: ModelText) -> None:
        self.tokenizer = text.tokenizer
        self.script = reference_script()
        self._numbers = itertools.count()
        self.model = self.script.model
        self.eos_ids = text.eos.ids
        self.primary_eos_id = text.eos.primary
        self.pad_id: int = read_config(find_model("unillm/tiny"))["pad_token_id"]

    def __call__(
        self,
        prompt: str | Sequence[int] = COUNT,
        *,
        max_tokens: int = 64,
        seed: int = 0,
        priority: int = 0,
        request_id: str | None = None,
        bad_words_token_ids: Sequence[Sequence[int]] = (),
        **fields: Any,
    ) -> EngineRequest:
        """Return a request; by default a greedy one of `COUNT`.

        Args:
            prompt: Text or ids.
            max_tokens: New tokens at most.
            seed: Of its draws.
            priority: Lower is sooner.
            request_id: `None` for a new one.
            bad_words_token_ids: Forbidden sequences.
            fields: Of `SamplingParams`; the default temperature is 0.
        """
        params = SamplingParams(
            **{"temperature": 0.0, **fields}, max_tokens=max_tokens, seed=seed
        )
        eos_ids = frozenset() if params.ignore_eos else self.eos_ids
        number = next(self._numbers)
        return EngineRequest(
            request_id=request_id or f"r{number}",
            prompt_token_ids=self.ids(prompt),
            params=params,
            stop_token_ids=eos_ids | frozenset(params.stop_token_ids),
            max_new_tokens=max_tokens,
            seed=seed,
            priority=priority,
            arrival=number,
            bad_words_token_ids=tuple(map(tuple, bad_words_token_ids)),
        )

    def endless(self, limits: EngineLimits) -> EngineRequest:
        """Return a request that runs until its context is full.

        Its steps are the time in which other requests come and go; over HTTP, 150 steps
        of a small model are over before the next request arrives.
        """
        room = limits.max_model_len - len(self.ids(COUNT))
        return self(max_tokens=room, ignore_eos=True)

    def ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """Return the ids of a prompt."""
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt, add_special_tokens=True))
        return tuple(prompt)

    def different(self, count: int, **fields: Any) -> list[EngineRequest]:
        """Return *count* requests of different prompts and lengths."""
        prompts = itertools.islice(itertools.cycle(ANSWERS), count)
        return [self(prompt, **fields) for prompt in prompts]

    def answer(self, request: EngineRequest) -> list[int]:
        """Return the new ids of a greedy request, with the one that ends it."""
        assert request.params.greedy, "each engine draws in its own way"
        ids = [token.token_id for token in self.script.complete(request)]
        for length in range(len(ids)):
            best = np.sort(self.script.scores(request, ids[:length]))[-2:]
            assert best[1] - best[0] > MARGIN, "rounding could change the answer"
        return ids

    def answers(self, requests: Iterable[EngineRequest]) -> list[list[int]]:
        """Return the answer to each request."""
        return [self.answer(request) for request in requests]

    def scores(self, request: EngineRequest) -> Any:
        """Return ``[vocab]``: the scores of the first new token."""
        return self.script.scores(request, ())


@functools.cache
def bundled_asker() -> Asker:
    """Return the `Asker` of the bundled model, made once a process."""
    return Asker(read_model_text(find_model("unillm/tiny")))
