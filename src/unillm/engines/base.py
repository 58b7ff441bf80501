# SPDX-License-Identifier: Apache-2.0

"""`Engine`: the contract of everything that computes tokens, and the values it uses.

An engine takes requests as token ids and returns token ids, a step at a time. It sees
no text: the core tokenises prompts, resolves EOS tokens, fits lengths, matches stop
strings and detokenises. All values are plain data, so a request can cross a pipe
unchanged.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import attrs
from typing_extensions import Self

from ..errors import RequestError
from ..lora import LoRARequest
from ..outputs import FinishReason, SlotMetrics
from ..params import SamplingParams


class Support(enum.Enum):
    """How a backend honours a sampling field or a feature."""

    NATIVE = "native"
    """The engine computes it."""
    EMULATED = "emulated"
    """The core computes it around the engine, with the same result."""
    UNSUPPORTED = "unsupported"
    """The core rejects a request that uses it."""


@attrs.frozen(kw_only=True)
class Capability:
    """How a backend honours one field, with the reason."""

    support: Support = Support.NATIVE
    reason: str = ""
    """Why the field is unsupported, or what its emulation costs; users read it."""


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

The core alone honours the others: stop strings, special tokens in the text, truncation.
"""

ALWAYS = frozenset({"max_tokens", "n"})
"""Sampling fields that are native although no backend names them.

Every engine ends a request at its length, and the core makes *n* requests of one.
"""

FEATURES = frozenset({"cache_salt", "extra_args", "lora"})
"""Features that a backend may declare beside sampling fields. ``"cache_salt"``: a
request uses the cached prompts of requests of its own salt alone. ``"extra_args"``: the
engine's own processors read `SamplingParams.extra_args`. ``"lora"``: requests that name
an adapter."""


_NATIVE = Capability()
_UNDECLARED = Capability(
    support=Support.UNSUPPORTED, reason="the backend does not declare it"
)


@attrs.frozen(kw_only=True)
class Capabilities:
    """How a backend honours each sampling field, feature and aspect of a field.

    `engines.aspects.ASPECTS` lists the aspects: ``"bad_words.sequences"``, for example.
    """

    fields: Mapping[str, Capability] = attrs.field(factory=lambda: MappingProxyType({}))
    """By name. A sampling field or a feature that is absent is unsupported, but for
    those of `ALWAYS`; an aspect that is absent is honoured as the name before its last
    dot."""

    @classmethod
    def native(cls, *names: str) -> Capabilities:
        """Return capabilities that declare these names as native."""
        return cls(fields=dict.fromkeys(names, _NATIVE))

    def of(self, name: str) -> Capability:
        """Return how the backend honours a field, a feature or an aspect."""
        if name in self.fields:
            return self.fields[name]
        whole, _, _ = name.rpartition(".")
        if whole:
            return self.of(whole)
        return _NATIVE if name in ALWAYS else _UNDECLARED

    def refined(self, other: Capabilities) -> Capabilities:
        """Return these capabilities, replaced by *other* where it names a field."""
        return Capabilities(fields={**self.fields, **other.fields})


SAMPLED = Capabilities.native(*SAMPLING_FIELDS - {"prompt_logprobs"}).refined(
    Capabilities(
        fields={
            "structured_outputs": Capability(
                support=Support.EMULATED,
                reason="the core masks the tokens that a grammar forbids",
            )
        }
    )
)
"""Capabilities of an engine that returns logits and samples with `Sampler` or
`RequestSampler`. It declares ``"prompt_logprobs"`` where it computes them too."""


@attrs.frozen(kw_only=True)
class EngineLimits:
    """The numbers that an engine was created or built with."""

    max_model_len: int
    """Tokens of a request's prompt and new tokens together."""
    max_num_seqs: int
    """Requests that the engine computes at the same time."""
    max_prompt_len: int | None = None
    """Tokens of the longest prompt; `None` for ``max_model_len - 1``."""
    max_logprobs: int | None = None
    """Most log-probabilities of a position beside the chosen token's; `None` for the
    whole vocabulary."""
    vocab_size: int
    """Every token id is below it."""

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that leaves room for one new token."""
        fits = self.max_model_len - 1
        return fits if self.max_prompt_len is None else min(fits, self.max_prompt_len)


class TokenGrammarState(Protocol):
    """**Protocol:** the position of one completion in a grammar."""

    error: str
    """Why no token can follow; empty as long as one can."""

    def allowed(self) -> bytes:
        """Return one bit for each token id, lowest bit first; 1 if it may follow."""

    def accept(self, token_id: int) -> None:
        """Advance by a new token."""


class TokenGrammar(Protocol):
    """**Protocol:** a compiled grammar, which says which tokens may follow which."""

    def start(self) -> TokenGrammarState:
        """Return a new state, before the first token."""


@attrs.frozen(kw_only=True)
class EngineRequest:
    """One completion for an engine to compute.

    The core has tokenised its text, resolved its EOS tokens and fitted its length.
    """

    request_id: str
    """Unique among the engine's unfinished requests."""
    prompt_token_ids: tuple[int, ...]
    """At least one, and at most `EngineLimits.longest_prompt`."""
    params: SamplingParams
    """The sampling fields to honour. The core matches its stop strings."""
    stop_token_ids: frozenset[int]
    """All token ids that end the completion, which are the user's and, unless
    `ignore_eos` is set, the model's EOS tokens."""
    max_new_tokens: int
    """At least 1. Prompt and new tokens never exceed `EngineLimits.max_model_len`."""
    seed: int
    """The user's seed, or one that the core drew."""
    priority: int = 0
    """Requests of a lower number go first, as in vLLM."""
    arrival: int = 0
    """A counter, not a time. It orders requests of the same priority."""
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    """`SamplingParams.bad_words` as token ids. The last id of a sequence is forbidden
    while the new tokens end with the ids before it."""
    logprob_token_ids: tuple[int, ...] | None = None
    """`SamplingParams.logprob_token_ids`: beside these, `params.logprobs` is -1, and an
    engine may return these alone."""
    grammar: TokenGrammar | None = None
    """The compiled `SamplingParams.structured_outputs`, for an engine that declares the
    field as emulated; `None` for all others. It is the one value here that cannot leave
    its process."""
    cache_salt: str | None = None
    """Requests of different salts share no cached prompt; for an engine that declares
    ``"cache_salt"``."""
    lora_request: LoRARequest | None = None
    """The adapter to compute with, for an engine that declares ``"lora"``. Its path is
    absolute, and the core has checked its files."""


@attrs.frozen
class TokenLogprobs:
    """Log-probabilities at one position, before temperature, penalties and filters."""

    logprob: float
    """Log-probability of the chosen token."""
    rank: int | None
    """Rank of the chosen token; 1 is the most probable. `None` if the engine does not
    know it, which only a request for the chosen token alone may meet."""
    top_ids: Sequence[int]
    """The most probable token ids, best first, as many as the request asks for; or
    `EngineRequest.logprob_token_ids`."""
    top_logprobs: Sequence[float]
    """One for each of `top_ids`."""


# Not frozen: engines make one for each token, and a frozen one takes twice the time.
@attrs.define(kw_only=True)
class EngineOutput:
    """The news of one request from one step."""

    request_id: str
    token_ids: Sequence[int] = ()
    """New token ids only, including the one that ends the completion."""
    logprobs: Sequence[TokenLogprobs] | None = None
    """One for each new token, if the request asks for them."""
    finish_reason: FinishReason | None = None
    """Set in the request's last output alone."""
    stop_token_id: int | None = None
    """The last token id, if it ended the completion."""
    error: str | None = None
    """Why this request alone failed; set with ``finish_reason="error"``."""
    num_cached_tokens: int = 0
    """Prompt tokens that the engine took from a prefix cache."""
    slots: SlotMetrics | None = None
    """The request's metrics so far, from a scheduler of this package."""
    prompt_logprobs: Sequence[TokenLogprobs] | None = None
    """One for each prompt token but the first, with the first new token, if the request
    asks for them."""
    refusal: RequestError | None = None
    """Why an engine that is not in this process refused the request after
    `Engine.add_request`; set with ``finish_reason="error"``, and raised as it is."""


class Engine(abc.ABC):
    """An object that computes requests step by step.

    One thread at a time calls it. The driver guarantees that request ids are unique
    among unfinished requests, that a request fits `limits`, and that `capabilities`
    allow its fields.
    """

    limits: EngineLimits
    """The core checks requests against these. Set once, in `__init__`."""

    capabilities: Capabilities = Capabilities()
    """How the engine honours each field. Constant."""

    compiles_structures: bool = False
    """Whether the engine compiles and checks `SamplingParams.structured_outputs` with
    the core's compiler itself, and refuses wrong ones: an engine in another process. A
    request may then come without its grammar. Constant."""

    @abc.abstractmethod
    def add_request(self, request: EngineRequest) -> None:
        """Accept a request; a later `step` begins it.

        Raises:
            RequestError: The engine cannot serve the request, and keeps nothing of it.
        """

    @abc.abstractmethod
    def step(self) -> list[EngineOutput]:
        """Compute until there is news, and return it; an empty list is allowed.

        May block while a request is unfinished, and returns at once otherwise. A
        request that fails alone ends with ``finish_reason="error"``. Any exception
        means that the whole engine is dead.
        """

    @abc.abstractmethod
    def abort(self, request_ids: Iterable[str]) -> None:
        """Drop these requests; `step` returns no more outputs of them.

        Unknown ids are ignored.
        """

    @abc.abstractmethod
    def has_unfinished(self) -> bool:
        """Return whether a request has neither finished nor been aborted."""

    def stats(self) -> Mapping[str, Any]:
        """Return counters by name, as JSON values. Any thread may call it."""
        return {}

    def death(self) -> Exception | None:
        """Return why the engine has died between two steps; `None` while it lives.

        Any thread calls it, often: it must not wait. An engine without processes keeps
        this default.
        """
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Free all memory, processes and devices. A second call does nothing."""

    def kill(self) -> None:  # noqa: B027 - most engines have no processes
        """End the engine's processes, so that a blocked call returns.

        The core calls it from another thread when the engine hangs, or when `close`
        waits too long; `close` still follows. An engine without processes keeps this
        default, which does nothing.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
