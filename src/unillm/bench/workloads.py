# SPDX-License-Identifier: Apache-2.0

"""Workloads: the prompts of a measurement, their lengths and their arrivals.

Everything here is a plain value or a function of a random generator, so all sides get
the same work, and a seed repeats it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from ..errors import ConfigError

BATCH, CLOSED, OPEN = "batch", "closed", "open"
"""Kinds of load: one list call; a fixed number of requests in flight; arrivals at a
rate that do not wait for answers."""


@attrs.frozen(kw_only=True)
class Ask:
    """One request of a workload."""

    prompt: Any
    """Token ids, or ``{"prompt": text}`` or ``{"messages": […]}``."""
    max_tokens: int
    at_s: float | None = None
    """Seconds from the start of the run at which it arrives; `None` for the start."""

    @property
    def num_prompt_tokens(self) -> int | None:
        """Tokens of the prompt; `None` where the engine's side has the tokenizer."""
        return len(self.prompt) if isinstance(self.prompt, list) else None


@attrs.frozen(kw_only=True)
class Case:
    """One kind of load within a measurement."""

    kind: str
    """`BATCH`, `CLOSED` or `OPEN`."""
    size: float
    """Requests of the batch, requests in flight, or requests a second."""
    requests: int
    """Requests of one round."""

    @property
    def name(self) -> str:
        """The case in two words."""
        unit = "/s" if self.kind == OPEN else ""
        return f"{self.kind} {self.size:g}{unit}"


# -------------------------------------------------------------------- sources of asks


@attrs.frozen(kw_only=True)
class Fixed:
    """Random prompts of one length, and completions of one length."""

    prompt_tokens: int
    output_tokens: int
    fresh = True

    def draw(self, rng: random.Random, count: int, ids: Sequence[int]) -> list[Ask]:
        """Return new asks with prompts of *ids*."""
        return [
            Ask(
                prompt=rng.choices(ids, k=self.prompt_tokens),
                max_tokens=self.output_tokens,
            )
            for _ in range(count)
        ]


@attrs.frozen(kw_only=True)
class Lognormal:
    """Random prompts and completions with lognormal lengths, as conversations have."""

    prompt_tokens: float
    """Mean before the cut."""
    output_tokens: float
    """Mean before the cut."""
    sigma: float = 0.9
    longest: int = 2048
    """Cut of each length."""
    fresh = True

    def draw(self, rng: random.Random, count: int, ids: Sequence[int]) -> list[Ask]:
        """Return new asks with prompts of *ids*."""

        def length(mean: float) -> int:
            drawn = rng.lognormvariate(math.log(mean) - self.sigma**2 / 2, self.sigma)
            return min(self.longest, max(1, round(drawn)))

        return [
            Ask(
                prompt=rng.choices(ids, k=length(self.prompt_tokens)),
                max_tokens=length(self.output_tokens),
            )
            for _ in range(count)
        ]


@attrs.frozen(kw_only=True)
class Lengths:
    """Random prompts with the lengths of recorded requests: a log, or a trace."""

    pairs: Sequence[tuple[int, int]]
    """Prompt and new tokens of each recorded request."""
    fresh = True

    def draw(self, rng: random.Random, count: int, ids: Sequence[int]) -> list[Ask]:
        """Return new asks whose lengths are a random choice of the recorded ones."""
        chosen = rng.choices(self.pairs, k=count)
        return [
            Ask(prompt=rng.choices(ids, k=prompt), max_tokens=output)
            for prompt, output in chosen
        ]


@attrs.frozen(kw_only=True)
class Prompts:
    """The prompts of a file, in random order; they repeat once all were used."""

    asks: Sequence[Ask]
    fresh = False

    def draw(self, rng: random.Random, count: int, ids: Sequence[int]) -> list[Ask]:
        """Return asks; *ids* is not used."""
        del ids
        rounds = -(-count // len(self.asks))
        drawn = [
            a for _ in range(rounds) for a in rng.sample(self.asks, len(self.asks))
        ]
        return drawn[:count]


class Workload(attrs.AttrsInstance, Protocol):
    """**Protocol:** draws the asks of a round. An attrs class, for the report."""

    @property
    def fresh(self) -> bool:
        """Whether each prompt is new, so that no cache can have its tokens."""

    def draw(self, rng: random.Random, count: int, ids: Sequence[int]) -> list[Ask]:
        """Return *count* asks; random prompts are made of *ids*."""


def described(workload: Workload) -> dict[str, Any]:
    """Return the facts about a workload for a report: a digest stands for a file."""
    digest = hashlib.blake2b(repr(workload).encode(), digest_size=8)
    return {
        "kind": type(workload).__name__.lower(),
        "digest": digest.hexdigest(),
        **attrs.asdict(workload, filter=attrs.filters.exclude("pairs", "asks")),
    }


def arrivals(rng: random.Random, rate: float, count: int) -> list[float]:
    """Return the arrival times of a Poisson process, in seconds."""
    now, times = 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        times.append(now)
    return times


def asks_of(
    case: Case, workload: Workload, rng: random.Random, ids: Sequence[int]
) -> list[Ask]:
    """Return the asks of one round."""
    asks = workload.draw(rng, case.requests, ids)
    if case.kind != OPEN:
        return asks
    times = arrivals(rng, case.size, case.requests)
    return [attrs.evolve(a, at_s=at) for a, at in zip(asks, times, strict=True)]


# ------------------------------------------------------------------------- from files


def read_records(
    records: Sequence[Mapping[str, Any]], *, place: str, output_tokens: int
) -> Workload:
    """Return the workload of a file of records.

    Three kinds of record are known: prompts (``prompt``, ``prompt_token_ids`` or
    ``messages``, with ``max_tokens`` if they have it), a request log
    (``prompt_tokens`` and ``completion_tokens``, also inside ``usage``), and
    conversations in ShareGPT's form (``conversations`` of ``from`` and ``value``).

    Args:
        records: Objects of the file.
        place: Name of the file, for errors.
        output_tokens: New tokens of a prompt without ``max_tokens``.

    Raises:
        ConfigError: There is no record, or one is of another kind.
    """
    if not records:
        raise ConfigError(f"{place} has no records. Give one JSON object a line.")
    lengths: list[tuple[int, int]] = []
    asks: list[Ask] = []
    for number, record in enumerate(records, 1):
        usage = record.get("usage") or record
        if isinstance(usage.get("prompt_tokens"), int):
            pair = usage["prompt_tokens"], usage.get("completion_tokens")
            if not isinstance(pair[1], int):
                raise _unknown(place, number, record)
            lengths.append((max(1, pair[0]), max(1, pair[1])))
        elif prompt := _prompt_of(record):
            tokens = record.get("max_tokens") or output_tokens
            asks.append(Ask(prompt=prompt, max_tokens=tokens))
        else:
            raise _unknown(place, number, record)
    if lengths and asks:
        raise ConfigError(
            f"{place} has both prompts and a log of lengths. Keep one kind in a file."
        )
    return Lengths(pairs=lengths) if lengths else Prompts(asks=asks)


def _prompt_of(record: Mapping[str, Any]) -> Any:
    if record.get("prompt_token_ids"):
        return list(record["prompt_token_ids"])
    if record.get("prompt"):
        return {"prompt": record["prompt"]}
    if record.get("messages"):
        return {"messages": record["messages"]}
    turns = record.get("conversations") or []
    first = next((turn for turn in turns if turn.get("from") == "human"), None)
    return first and {"prompt": first["value"]}


def _unknown(place: str, number: int, record: Mapping[str, Any]) -> ConfigError:
    return ConfigError(
        f"{place}, record {number}: keys {', '.join(sorted(record)) or 'none'}. "
        "A record has prompt, prompt_token_ids, messages or conversations; or "
        "prompt_tokens and completion_tokens."
    )
