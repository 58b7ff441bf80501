# SPDX-License-Identifier: Apache-2.0

"""The contract: plain data in, plain data out, one abstract class.

An engine takes requests of token ids and gives token ids back, a step at a time. It
never sees text: prompts, end ids, lengths, stop strings and detokenising are the
core's.
Everything here is plain data, so that a request can cross a pipe unchanged.

Nothing in this module imports an engine, torch or a tokenizer.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Protocol

import attrs
from typing_extensions import Self

from ..lora import LoRARequest
from ..outputs import FinishReason, SlotMetrics
from ..params import SamplingParams


class Support(enum.Enum):
    """How a backend honours a sampling field or a feature."""

    NATIVE = "native"
    """The engine does it."""
    EMULATED = "emulated"
    """The core does it around the engine, with the same result."""
    UNSUPPORTED = "unsupported"
    """A request that asks for it is refused."""


@attrs.frozen(kw_only=True)
class Capability:
    """How one field is honoured, and why not where it is not."""

    support: Support = Support.NATIVE
    reason: str = ""
    """Why it is unsupported, or what the emulation costs, for a person to read."""


SAMPLING_FIELDS = frozenset(
    {
        "n",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop_token_ids",
        "ignore_eos",
        "max_tokens",
        "min_tokens",
        "logprobs",
        "prompt_logprobs",
        "logit_bias",
        "allowed_token_ids",
        "bad_words",
        "structured_outputs",
    }
)
"""Fields of `SamplingParams` that may depend on the engine.

The others (stop strings, special tokens in the text, truncation) are the core's alone.
"""

FEATURES = frozenset({"lora"})
"""What a backend must say that it has; unsaid, it is unsupported. ``"lora"``: requests
that name an adapter."""


_NO_FEATURE = Capability(
    support=Support.UNSUPPORTED, reason="it has nothing of the kind"
)


@attrs.frozen(kw_only=True)
class Capabilities:
    """What a backend can do, as data: read by the core, the docs and the tests."""

    fields: Mapping[str, Capability] = attrs.field(factory=lambda: MappingProxyType({}))
    """By name of the sampling field or feature. A field that is absent is native, one
    of `FEATURES` that is absent is unsupported."""

    def of(self, field: str) -> Capability:
        """Return how *field* is honoured."""
        default = _NO_FEATURE if field in FEATURES else Capability()
        return self.fields.get(field, default)

    def refined(self, other: Capabilities) -> Capabilities:
        """Return these with what *other* says of a field in the first place."""
        return Capabilities(fields={**self.fields, **other.fields})


@attrs.frozen(kw_only=True)
class EngineLimits:
    """Numbers that the engine was created or built with."""

    max_model_len: int
    """Prompt and new tokens together."""
    max_num_seqs: int
    """Requests that the engine works on at the same time."""
    max_prompt_len: int | None = None
    """Longest prompt; `None` for ``max_model_len - 1``."""
    vocab_size: int
    """Ids must be below it."""

    @property
    def longest_prompt(self) -> int:
        """The longest prompt that leaves room for one new token."""
        fits = self.max_model_len - 1
        return fits if self.max_prompt_len is None else min(fits, self.max_prompt_len)


class TokenGrammarState(Protocol):
    """**Protocol:** how far one completion is in a grammar."""

    error: str
    """Why nothing can follow any more; empty while all is well."""

    def allowed(self) -> bytes:
        """Return one bit for each id, the lowest bit of a byte first."""

    def accept(self, token_id: int) -> None:
        """Take notice of a new token."""


class TokenGrammar(Protocol):
    """**Protocol:** which tokens may follow which."""

    def start(self) -> TokenGrammarState:
        """Return the state before the first token."""


@attrs.frozen(kw_only=True)
class EngineRequest:
    """One completion to compute. Text has already become ids, limits already fit."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    """Sampling fields to honour; stop strings in it are the core's business."""
    stop_token_ids: frozenset[int]
    """All ids that end the request, the model's and the user's. The model's are not
    among them under `ignore_eos`."""
    max_new_tokens: int
    """At least 1. It is fitted, so prompt and new tokens never exceed the context."""
    seed: int
    """Always set. Where the user gave none, the core drew one."""
    priority: int = 0
    """Lower is sooner, as in vLLM."""
    arrival: int = 0
    """A counter, not a time. It breaks ties of priority."""
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    """`SamplingParams.bad_words` in tokens: the last id of a sequence is banned where
    the new tokens end in the ids before it."""
    grammar: TokenGrammar | None = None
    """`SamplingParams.structured_outputs` compiled by the core, for an engine that
    declares the field as emulated. It is the one thing here that stays in its process;
    an engine that has grammars of its own is given none."""
    lora_request: LoRARequest | None = None
    """The adapter to compute with, for an engine that has ``"lora"``. The core has
    looked at its files; the path is absolute."""


@attrs.frozen
class TokenLogprobs:
    """Log-probabilities at one position, before temperature, penalties and filters."""

    logprob: float
    """Of the token that was chosen."""
    rank: int
    """Of the token that was chosen; 1 is the most probable."""
    top_ids: Sequence[int]
    """The most probable ids, best first, as many as asked."""
    top_logprobs: Sequence[float]


@attrs.frozen(kw_only=True)
class EngineOutput:
    """What one step added to one request."""

    request_id: str
    token_ids: Sequence[int] = ()
    """New ids only, the one that ended the request among them."""
    logprobs: Sequence[TokenLogprobs] | None = None
    """One for each new id, if the request asked."""
    finish_reason: FinishReason | None = None
    """Set exactly once a request; nothing follows."""
    stop_token_id: int | None = None
    """The last id, where it is what ended the request."""
    error: str | None = None
    """With ``finish_reason="error"``: what went wrong with this request alone."""
    num_cached_tokens: int = 0
    slots: SlotMetrics | None = None
    """Until now, on a slot engine."""
    prompt_logprobs: Sequence[TokenLogprobs] | None = None
    """With the first new id, if the request asked; one for each prompt token but the
    first."""


class Engine(abc.ABC):
    """Something that requests are added to and that is stepped.

    Called from one thread at a time. The driver guarantees that ids are unique among
    unfinished requests, that a request fits `limits`, and that `capabilities` allow it.
    """

    limits: EngineLimits
    """The numbers that the core checks requests against. Set once, in `__init__`."""

    capabilities: Capabilities = Capabilities()
    """The fields that are native, emulated or unsupported. Constant."""

    @abc.abstractmethod
    def add_request(self, request: EngineRequest) -> None:
        """Take a request; it begins at a later `step`.

        Raises:
            RequestError: The request cannot be served; nothing of it is kept.
        """

    @abc.abstractmethod
    def step(self) -> list[EngineOutput]:
        """Work until something can be told, and tell it.

        May block while work is under way, never when there is none. An exception means
        that the engine is dead; what concerns one request alone is an `EngineOutput`
        with ``finish_reason="error"``.
        """

    @abc.abstractmethod
    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget these requests; nothing more is told of them.

        Unknown ids are ignored.
        """

    @abc.abstractmethod
    def has_unfinished(self) -> bool:
        """Whether a request was added and neither finished nor aborted."""

    def stats(self) -> Mapping[str, Any]:
        """Counters of the engine, by name; JSON values. Any thread may ask."""
        return {}

    @abc.abstractmethod
    def close(self) -> None:
        """Free everything. Closing twice does nothing."""

    def kill(self) -> None:  # noqa: B027 - most engines have nothing to kill
        """End the processes of the engine, so that a call that hangs comes back.

        Called from any thread, while the engine's own may be inside a call: when it
        counts as dead, or does not come to an end while closing. `close` still follows.
        An engine without processes leaves it as it is.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
