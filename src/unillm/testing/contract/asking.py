# SPDX-License-Identifier: Apache-2.0

"""Requests as the core makes them, the prompts to make them of, and what is expected.

The bundled model answers these prompts by a wide margin: at every step the best token
is far above the second, so that rounding cannot change what is said.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engines.base import EngineRequest
from ...model.find import find_model
from ...params import SamplingParams
from ...text.loading import read_model_text
from ..reference import ReferenceScript

if TYPE_CHECKING:
    from ...text.eos import EosIds
    from ...text.tokenizer import Tokenizer

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
"""What the model says to what, until it ends by itself."""

UNSURE = "Hello world"
"""Means nothing to the model, so that there is something to draw from."""

MARGIN = 0.2
"""By how much the best logit has to be above the second where ids are compared. Float32
on any device is off by some 0.0001."""


class Asker:
    """Makes requests: greedy ones of `COUNT`, if nothing else is said."""

    def __init__(self, tokenizer: Tokenizer, eos: EosIds) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._numbers = itertools.count()

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
        """Return a request.

        Args:
            prompt: Text or ids.
            max_tokens: New tokens at most.
            seed: Counts where it draws.
            priority: Lower is sooner.
            request_id: `None` for one that no other request has.
            bad_words_token_ids: What must not come.
            fields: Of `SamplingParams`; the temperature is 0 if it is not given.
        """
        params = SamplingParams(
            **{"temperature": 0.0, **fields}, max_tokens=max_tokens, seed=seed
        )
        own = frozenset() if params.ignore_eos else self._eos.ids
        number = next(self._numbers)
        return EngineRequest(
            request_id=request_id or f"r{number}",
            prompt_token_ids=self.ids(prompt),
            params=params,
            stop_token_ids=own | frozenset(params.stop_token_ids),
            max_new_tokens=max_tokens,
            seed=seed,
            priority=priority,
            arrival=number,
            bad_words_token_ids=tuple(map(tuple, bad_words_token_ids)),
        )

    def ids(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """Return the ids of a prompt."""
        if isinstance(prompt, str):
            return tuple(self._tokenizer.encode(prompt, add_special_tokens=True))
        return tuple(prompt)

    def different(self, count: int, **fields: Any) -> list[EngineRequest]:
        """Return *count* requests of different prompts and lengths."""
        prompts = itertools.islice(itertools.cycle(ANSWERS), count)
        return [self(prompt, **fields) for prompt in prompts]

    @property
    def end_ids(self) -> frozenset[int]:
        """The model's own."""
        return self._eos.ids

    @property
    def primary_end_id(self) -> int:
        """The tokenizer's own one, with which turns of a chat end."""
        return self._eos.primary


@functools.cache
def bundled_asker() -> Asker:
    """Return what makes requests of the bundled model."""
    text = read_model_text(find_model("unillm/tiny"))
    return Asker(text.tokenizer, text.eos)


class Oracle:
    """Says what has to be told of a request, without the engine."""

    def __init__(self, script: ReferenceScript) -> None:
        self._script = script
        self.model = script.model

    def token_ids(self, request: EngineRequest) -> list[int]:
        """Return the new ids of a greedy request, the one that ends it among them."""
        assert request.params.greedy, "an engine draws by its own numbers"
        ids = [token.token_id for token in self._script.complete(request)]
        for place in range(len(ids)):
            best = np.sort(self._script.scores(request, ids[:place]))[-2:]
            assert best[1] - best[0] > MARGIN, "a clause asks what rounding decides"
        return ids

    def scores(self, request: EngineRequest) -> Any:
        """Return ``[vocab]``: the scores of the first new token."""
        return self._script.scores(request, ())
