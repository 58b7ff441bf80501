# SPDX-License-Identifier: Apache-2.0

"""What the two processes say to each other, as MessagePack.

MessagePack and not JSON, because JSON has no infinity, which is a log-probability, and
no integer keys, which `logit_bias` has. In size it takes a third of JSON's bytes for a
step, in time as much (``benchmarks/process.py encoding``).

The first message is `Hello`, in every version of the protocol; all others may change
with `PROTOCOL`. A message is an array that begins with its name, and its fields follow
in their order.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Raw, Struct

from ..outputs import FinishReason

PROTOCOL = 2
"""Changes when one version would misread a message of another."""


SupportName = Literal["native", "emulated", "unsupported"]
"""A `Support`."""


class Message(Struct, array_like=True, tag=True, gc=False):
    """One message."""


class Failure(Message, kw_only=True):
    """An exception."""

    kinds: list[str]
    """Its class and the bases of that, as ``module.name``, nearest first."""
    message: str
    state: dict[str, Any]
    """Its attributes; what is not plain data is a text."""


# ------------------------------------------------------------------- to this program


class Hello(Message, kw_only=True):
    """The first message of the other process."""

    protocol: int
    unillm: str
    """Version of unillm there."""
    python: str
    """Version of Python there."""


class Facts(Message, kw_only=True):
    """A backend, as its class declares it there."""

    name: str
    description: str
    distribution: str
    auto_rank: int | None
    option_names: list[str] | None
    engine_options: list[str]
    option_reasons: dict[str, str]
    waivers: dict[str, str]
    sometimes: list[str]
    """Clauses of `waivers` that also pass at times."""
    capabilities: dict[str, tuple[SupportName, str]]
    """Name to the support and its reason."""
    available: bool
    reason: str
    remedy: str | None
    reads_weights: bool = True


class Listing(Message):
    """All backends there."""

    backends: list[Facts]


class Answer(Message):
    """The value that a method of the backend returned."""

    value: Any


class Ready(Message, kw_only=True):
    """The engine is loaded."""

    limits: tuple[int, int, int | None, int, int | None]
    """`EngineLimits.max_model_len`, `max_num_seqs`, `max_prompt_len`, `vocab_size`,
    `max_logprobs`."""
    capabilities: dict[str, tuple[SupportName, str]]


class Output(Struct, array_like=True, gc=False):
    """One `EngineOutput`."""

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_cached_tokens: int = 0
    logprobs: list[Logprobs] | None = None
    slots: tuple[int | None, int, int, int, int, bool] | None = None
    """The fields of `SlotMetrics`."""
    error: str | None = None
    prompt_logprobs: list[Logprobs] | None = None
    refusal: Failure | None = None


class Logprobs(Struct, array_like=True, gc=False):
    """One `TokenLogprobs`."""

    logprob: float
    rank: int | None
    top_ids: list[int]
    top_logprobs: list[float]


class News(Message):
    """Outputs of the engine; none, so that the program goes on meanwhile."""

    turn: int
    """Number of the last `Turn` that came before the step."""
    steps: int
    """Steps until now."""
    outputs: list[Output]


class Bye(Message):
    """The engine is closed. The last message."""


class Beat(Message):
    """A sign of life while the engine loads, on the second socket."""


class Log(Message):
    """A line of unillm's log, on the second socket."""

    logger: str
    level: int
    text: str


class Phase(Message):
    """A `PhaseStatus` while the engine loads, on the second socket."""

    name: str
    message: str
    fraction: float | None
    total_bytes: int | None
    is_over: bool


class Stats(Message):
    """`Engine.stats`, on the second socket."""

    values: dict[str, Any]


# ---------------------------------------------------------------- to the other process


class Config(Struct, array_like=True):
    """An `EngineConfig`."""

    path: bytes
    fields: dict[str, Any]
    sources: dict[str, str]


class List(Message):
    """Asks for `Listing`."""


class Describe(Message):
    """Asks for the `Facts` of one backend."""

    backend: str


class Ask(Message):
    """Asks for the `Answer` of a backend's method that takes a configuration."""

    backend: str
    method: str
    config: Config


class Load(Message, kw_only=True):
    """Asks for an engine, and `Ready` or `Failure`."""

    backend: str
    config: Config
    cores: list[int] | None
    """Cores of the process; `None` for all."""
    log_level: int


class Params(Struct, array_like=True):
    """A `SamplingParams`: the fields that are not default."""

    fields: dict[str, Any]


class Request(Struct, array_like=True, gc=False):
    """One `EngineRequest`."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: Raw
    """Encoded on its own: mostly the same bytes as another request's."""
    stop_token_ids: frozenset[int]
    max_new_tokens: int
    seed: int
    priority: int
    arrival: int
    bad_words_token_ids: tuple[tuple[int, ...], ...]
    logprob_token_ids: tuple[int, ...] | None
    cache_salt: bytes | None
    lora: tuple[str, int, bytes] | None


class Turn(Message):
    """Requests and aborts before the next step, and how far the engine may step."""

    turn: int
    """Number of the message, from 1."""
    steps: int
    """Steps that it may have done before it waits for another `Turn`."""
    aborts: list[str]
    requests: list[Raw]
    """Encoded `Request` objects, which enter the engine after the aborts."""


class Close(Message):
    """Ends the engine, and asks for `Bye`."""


class AskStats(Message):
    """Asks for `Stats`, on the second socket."""


FromHost = (
    Hello
    | Facts
    | Listing
    | Answer
    | Ready
    | News
    | Bye
    | Beat
    | Log
    | Phase
    | Stats
    | Failure
)
ToHost = List | Describe | Ask | Load | Turn | Close | AskStats
