# SPDX-License-Identifier: Apache-2.0

"""Random requests: every declared field, in combinations where engines go wrong.

A wrong rule shows only where it changes a token. So stop ids, bad words and biases are
taken from what the model would say; bad words also begin in the prompt; allowed ids are
improbable ones, whose logits are negative; prompts end in special ids, share prefixes,
and are as long as pages and chunks are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import attrs

from ...engines.aspects import aspects_of
from ...engines.base import Support
from ...params import SamplingParams
from ...text.grammar import GrammarCompiler
from ..asking import ANSWERS, Asker
from .jobs import Job

if TYPE_CHECKING:
    from ...engines.base import Capabilities, EngineLimits, EngineRequest

_BORDERS = (15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 66, 127, 128, 129)
"""Lengths beside those of pages and of chunks."""

_REGEXES = ("[0-9 ]{2,6}", "(red|green|blue) [a-c]+", "[A-Za-z ]{3,12}", "(a|b){1,4}")

_WORDS = ("apple", "house", "table", "river", "green", "cloud")


class RequestSource:
    """Makes sessions of random requests, the same ones for the same seed.

    Args:
        ask: Makes requests, and knows the model.
        capabilities: Of the backend. A request uses no field that it does not declare.
        limits: Of the engine.
        seed: Of the sequence of random numbers.
    """

    def __init__(
        self,
        ask: Asker,
        capabilities: Capabilities,
        limits: EngineLimits,
        seed: int,
    ) -> None:
        self._ask = ask
        self._capabilities = capabilities
        self._limits = limits
        self._random = random.Random(f"unillm {seed}")
        self._grammars = GrammarCompiler(
            ask.tokenizer, vocab_size=limits.vocab_size, eos_ids=ask.eos_ids
        )
        self._number = 0
        self._prompts: list[tuple[int, ...]] = []
        self._said: dict[tuple[int, ...], list[int]] = {}
        self._drawn: list[Job] = []
        self._seeds: set[int] = set()

    def session(self, most: int) -> list[Job]:
        """Return the jobs of the next session, at most as many as asked for."""
        jobs = []
        joins = 0
        for _ in range(min(self._random.randint(4, 12), most)):
            if self._random.random() < 0.6:
                joins += self._random.choice((0, 0, 1, 2, 5, 9))
            jobs.append(attrs.evolve(self._job(), joins=joins))
        return jobs

    # ------------------------------------------------------------------------- one job

    def _job(self) -> Job:
        chance = self._random.random()
        if self._drawn and chance < 0.12 and self._declares("seed"):
            return self._related(self._random.choice(self._drawn))
        job = self._new_job()
        params = job.request.params
        # Chance repeats few completions of wild requests: their seeds are comparable.
        wild = params.temperature >= 1.3 and params.top_k < 1 and params.top_p == 1
        kept = wild and job.request.max_new_tokens >= 8
        kept |= not params.greedy and self._random.random() < 0.08
        if kept and job.abort_after is None:
            self._drawn = [*self._drawn[-30:], job]
        return job

    def _related(self, other: Job) -> Job:
        """Return an earlier request once more, or with another seed.

        The seed differs by its sign, by one bit, by a modulus, or by one, as those of
        several completions do.
        """
        seed = other.request.seed
        chance = self._random.random()
        if chance < 0.2:
            seed += 1
        elif chance < 0.4:
            seed = (seed + self._random.choice((2**16, 2**31, 2**32)) - 1) % 2**63
        elif chance < 0.55:
            seed = -seed
        elif chance < 0.75:
            seed ^= 1 << self._random.randrange(63)
        repeats = seed in self._seeds
        self._seeds.add(seed)
        params = attrs.evolve(other.request.params, seed=seed)
        name = self._name()
        change: dict[str, Any] = {"request_id": name, "seed": seed, "params": params}
        return Job(
            request=attrs.evolve(other.request, **change),
            judged=attrs.evolve(other.judged, **change),
            repeats=repeats,
        )

    def _new_job(self) -> Job:
        while True:
            draws = self._declares("temperature") and self._random.random() < 0.6
            prompt = self._prompt(unsure=draws)
            room = self._limits.max_model_len - len(prompt)
            request, judged = self._request(prompt, room, draws=draws)
            used = aspects_of(judged, vocab_size=self._limits.vocab_size)
            if all(map(self._declares, used)):
                break
        self._prompts = [*self._prompts[-40:], prompt]
        abort_after = None
        if self._random.random() < 0.1:
            abort_after = self._random.randint(1, 6)
        return Job(
            request=request,
            judged=judged,
            abort_after=abort_after,
            again=self._random.random() < 0.5,
        )

    def _fitting(self, *counts: int) -> tuple[int, ...]:
        """Return the counts of log-probabilities that the engine returns."""
        most = self._limits.max_logprobs
        return tuple(n for n in counts if most is None or 0 <= n <= most)

    def _declares(self, name: str) -> bool:
        return self._capabilities.of(name).support is not Support.UNSUPPORTED

    def _name(self) -> str:
        self._number += 1
        return f"random-{self._number}"

    # --------------------------------------------------------------------- the prompt

    def _prompt(self, *, unsure: bool) -> tuple[int, ...]:
        """Return a prompt, mostly one without a clear answer if it is *unsure*."""
        draw = self._random
        kind = draw.random()
        if unsure and draw.random() < 0.6:
            ids = self._ids(draw.randint(1, 6))
        elif kind < 0.4 or not self._prompts:
            ids = self._ask.ids(self._text())
        elif kind < 0.6:  # the beginning of an earlier one, so that caches meet it
            earlier = draw.choice(self._prompts)
            kept = earlier[: draw.randint(1, len(earlier))]
            ids = (*kept, *self._ids(draw.randint(0, 12)))
        elif kind < 0.65:
            ids = draw.choice(self._prompts)
        elif kind < 0.9:
            ids = self._ids(int(draw.choice((1, 2, 5, 9, 20, 40, 90))))
        else:
            ids = self._ask.ids(self._text()) * draw.randint(2, 8)
        if draw.random() < 0.15:
            length = draw.choice(_BORDERS)
            ids = (*ids, *self._ids(max(length - len(ids), 0)))[-length:]
        if draw.random() < 0.2:  # ids that an engine could take for padding
            size = self._limits.vocab_size
            last = draw.choice((0, 0, 505, 506, 507, 507, 511, size - 1))
            ids = (*ids, *[last] * draw.randint(1, 3))
        return tuple(ids[-(self._limits.longest_prompt - draw.randint(0, 8)) :])

    def _text(self) -> str:
        draw = self._random
        first, second = draw.randint(1, 60), draw.randint(1, 60)
        return draw.choice(
            (
                *ANSWERS,
                f"Count from {first} to {second}:",
                f"Add {first} and {second}:",
                f"Spell the word {draw.choice(_WORDS)}:",
                "Hello world",
                "Count",
                "List the",
            )
        )

    def _ids(self, count: int) -> tuple[int, ...]:
        return tuple(self._random.randrange(1, 505) for _ in range(count))

    # --------------------------------------------------------------------- the fields

    def _request(
        self, prompt: tuple[int, ...], room: int, *, draws: bool
    ) -> tuple[EngineRequest, EngineRequest]:
        """Return a request for the engine, and as the oracle reads it."""
        draw = self._random
        most = draw.choice((1, 2, 3, 5, 8, 8, 12, 12, 16, 16, 24, 24, 40, 90))
        most = min(most, room)
        fields: dict[str, Any] = {"max_tokens": most, "temperature": 0.0}
        if draws:
            fields |= self._filters()
        self._maybe(fields, "presence_penalty", 0.15, (-1.5, 0.4, 1.0, 2.0))
        self._maybe(fields, "frequency_penalty", 0.15, (-1.0, 0.3, 0.8, 2.0))
        self._maybe(fields, "repetition_penalty", 0.3, (0.6, 0.6, 1.1, 1.3, 1.8, 3.0))
        self._maybe(fields, "ignore_eos", 0.4, (True,))
        self._maybe(fields, "logprobs", 0.15, self._fitting(0, 1, 3, 20, -1))
        self._maybe(fields, "prompt_logprobs", 0.04, self._fitting(0, 2))
        if self._wants("min_tokens", 0.25):
            fields["min_tokens"] = draw.randint(1, most)
        if self._wants("stop_token_ids", 0.3):
            fields["stop_token_ids"] = self._likely(
                prompt, draw.choice((1, 1, 2, 3, 6))
            )
        if self._wants("logit_bias", 0.15):
            ids = self._likely(prompt, draw.choice((1, 1, 2, 3, 4, 8)))
            values = (-100.0, -4.0, -1.0, 1.0, 4.0, 9.0)
            fields["logit_bias"] = {each: draw.choice(values) for each in ids}
        words = []
        if self._wants("bad_words", 0.25):
            words = [self._bad_word(prompt) for _ in range(draw.choice((1, 2, 3, 5)))]
        # Penalties of tokens that the model would not say meet negative logits.
        penalised = "repetition_penalty" in fields and draw.random() < 0.4
        if self._wants("allowed_token_ids", 0.3 if penalised else 0.12):
            banned = {*(word[-1] for word in words), *self._ask.eos_ids}
            banned |= {*fields.get("stop_token_ids", ())}
            free = sorted(set(range(self._limits.vocab_size)) - banned)
            if penalised:
                free = sorted({*prompt, *draw.sample(free, 20)} - banned)
            count = draw.choice((6, 20, 100, 300))  # many are about equally likely
            count = min(count, len(free))
            fields["allowed_token_ids"] = draw.sample(free, count) + draw.choice(
                ([], sorted(self._ask.eos_ids))
            )
        # An engine with a grammar of its own decides which EOS token ends a text.
        support = self._capabilities.of("structured_outputs").support
        emulated = support is Support.EMULATED and find_spec("llguidance") is not None
        if emulated and not fields.get("ignore_eos") and draw.random() < 0.05:
            fields["structured_outputs"] = {"regex": draw.choice(_REGEXES)}
            fields.pop("allowed_token_ids", None)  # nothing could follow
            fields.pop("logit_bias", None)
            fields.pop("min_tokens", None)
            words = []
        request = self._ask(
            prompt,
            seed=self._seed(),
            priority=draw.choice((0, 0, 0, 0, 1, -2)),
            request_id=self._name(),
            bad_words_token_ids=words,
            **fields,
        )
        structure = request.params.structured_outputs
        if structure is None:
            return request, request
        grammar = self._grammars.compile(structure)
        judged = attrs.evolve(request, grammar=grammar)
        return judged, judged

    def _filters(self) -> dict[str, Any]:
        temperatures = (0.1, 0.3, 0.3, 0.5, 0.8, 1.0, 1.3, 1.7, 2.0, 2.0, 2.0)
        fields: dict[str, Any] = {"temperature": self._random.choice(temperatures)}
        top_k = (1, 2, 3, 5, 10, 40, 64, 128, 300, 511, 600, -1)
        self._maybe(fields, "top_k", 0.35, top_k)
        self._maybe(fields, "top_p", 0.4, (0.1, 0.3, 0.5, 0.7, 0.7, 0.9, 0.9, 0.95))
        self._maybe(fields, "min_p", 0.25, (0.01, 0.05, 0.1, 0.3, 0.3, 0.8))
        return fields

    def _maybe(
        self, fields: dict[str, Any], name: str, share: float, values: Sequence[Any]
    ) -> None:
        if self._wants(name, share):
            fields[name] = self._random.choice(values)

    def _wants(self, name: str, share: float) -> bool:
        return self._random.random() < share and self._declares(name)

    def _seed(self) -> int:
        """Return a small or large seed, which no other request has.

        Requests of one seed may draw with the same random numbers, and the frequencies
        of their tokens would count them twice.
        """
        seed = self._random.getrandbits(63)
        if self._random.random() < 0.3:
            seed = 100 * self._number + self._random.randrange(98)
        self._seeds.add(seed)
        return seed

    def _likely(self, prompt: tuple[int, ...], count: int) -> list[int]:
        """Return ids that the model would say, a random one among them now and then."""
        said = self._say(prompt)
        pool = [*said, *said, self._random.randrange(505)]
        return [self._random.choice(pool) for _ in range(count)]

    def _bad_word(self, prompt: tuple[int, ...]) -> list[int]:
        """Return a word that the model would say, whole, in part or over the border."""
        said = self._say(prompt)
        start = self._random.randrange(len(said))
        kind = self._random.random()
        if kind < 0.3:
            return [said[start]]
        if kind < 0.6:
            return said[start : start + self._random.randint(2, 3)]
        if kind < 0.85:
            kept = self._random.randint(1, 2)
            return [*prompt[-kept:], *said[: self._random.randint(1, 2)]]
        return [self._random.randrange(505), said[start]]

    def _say(self, prompt: tuple[int, ...]) -> list[int]:
        """Return the first ids of the model's own answer."""
        if prompt not in self._said:
            ids: list[int] = []
            for _ in range(6):
                ids.append(int(self._ask.model.logits([*prompt, *ids]).argmax()))
            self._said = dict(list(self._said.items())[-64:])
            self._said[prompt] = ids
        return self._said[prompt]


def changed_fields(params: SamplingParams) -> list[str]:
    """Return the names of the fields that have not their default values."""
    names = SamplingParams.__struct_fields__
    return [name for name in names if not params.is_default(name)]
