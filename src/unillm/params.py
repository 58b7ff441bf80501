# SPDX-License-Identifier: Apache-2.0

"""`SamplingParams`: how the next token is chosen and when a completion ends.

Names, meanings and defaults are vLLM's (0.32), on every backend, but for `max_tokens`:
a completion without it goes on to its own end or that of the context. A field checks
its value when an object is made and when the field is assigned. A request copies the
object, which checks all fields again: lists and dicts may have been changed since.
"""

from __future__ import annotations

import enum
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import attrs

from .errors import InvalidParameterError
from .fields import (
    as_integer,
    as_items,
    as_number,
    as_positive,
    as_text,
    bool_field,
    dict_field,
    field,
    int_field,
    number_field,
    refuse,
)
from .keywords import suggest_names
from .structured_outputs import StructuredOutputs

MAX_N = 16_384
"""Largest `n`: vLLM's default of ``VLLM_MAX_N_SEQUENCES``."""

MAX_LOGIT_BIAS = 100.0
"""A larger bias, of either sign, is cut to this, as in vLLM."""

GREEDY_BELOW = 1e-5
"""A temperature under this is greedy, as in vLLM."""

LOWEST_TEMPERATURE = 0.01
"""Dividing logits by less overflows half precision; vLLM raises such values to this."""

_BEAM = "vLLM took it out of SamplingParams; call LLM.beam_search()"

UNAVAILABLE_FIELDS: Mapping[str, str] = {
    "best_of": "vLLM removed it; ask for n completions and take the one you want",
    "early_stopping": _BEAM,
    "end_id": "the model names its EOS tokens; stop_token_ids adds others",
    "guided_decoding": "vLLM renamed it; pass structured_outputs=StructuredOutputs(…)",
    "length_penalty": _BEAM,
    "logits_processors": "the caller's code would run between the engine's steps; use "
    "logit_bias, allowed_token_ids, bad_words or structured_outputs",
    "output_kind": "generate() returns finished outputs, stream() yields new text",
    "prompt_logprob_start": "prompt_logprobs covers the whole prompt",
    "prompt_logprob_token_ids": "prompt_logprobs=k returns the k most probable tokens",
    "repetition_detection": "no backend detects repetition; use repetition_penalty",
    "routed_experts_prompt_start": "outputs do not show the routing inside the model",
    "skip_clone": "a request always keeps a copy of its params",
    "skip_reading_prefix_cache": "a prefix cache is on or off for the whole engine",
    "stream_interval": "a stream yields the text that is new since the last read",
    "thinking_token_budget": "unillm does not separate reasoning from answers",
    "trace_decode_token_ids": "it is a tool for vLLM's own developers",
    "use_beam_search": _BEAM,
    "watermarking": "no backend marks its text",
}
"""Sampling fields of other libraries, past or present, that `SamplingParams` lacks."""

_HARMLESS_FIELDS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(UNAVAILABLE_FIELDS, (None,)),
    "best_of": (None, 1),
    "early_stopping": (None, False),
    "length_penalty": (None, 1.0),
    "logits_processors": (None, []),
    "output_kind": (None, 0, 1, 2),
    "routed_experts_prompt_start": (None, 0),
    "skip_clone": (None, False, True),
    "skip_reading_prefix_cache": (None, False),
    "thinking_token_budget": (None, -1),
    "use_beam_search": (None, False),
}
"""Their values that request what `SamplingParams` does anyway."""


class SamplingParamsWarning(UserWarning):
    """A parameter was changed to the nearest value, or a default cut an answer."""

    __module__ = "unillm"


class Unset(enum.Enum):
    """The stored value of a field that was not given, where `None` is a value too."""

    UNSET = None


class HasDefaults(Protocol):
    """**Protocol:** a `Generator` or an `LLM`, whose model has sampling defaults."""

    def get_default_sampling_params(self) -> SamplingParams:
        """Return a copy of the model's own defaults."""


def _token_id(value: Any) -> int:
    if (token_id := as_integer(value)) < 0:
        raise ValueError
    return token_id


def _bias(value: Any) -> tuple[int, float]:
    token_id, bias = _token_id(value[0]), as_number(value[1])
    if math.isnan(bias):
        raise ValueError
    return token_id, max(-MAX_LOGIT_BIAS, min(MAX_LOGIT_BIAS, bias))


def _seed(value: Any) -> int | None:
    if not -(2**63) <= as_integer(value) < 2**63:
        raise ValueError
    return None if value == -1 else as_integer(value)  # as in vLLM


def _temperature(value: Any) -> float:
    number = as_number(value)
    if GREEDY_BELOW <= number < LOWEST_TEMPERATURE:
        warnings.warn(
            f"temperature {number:g} is raised to {LOWEST_TEMPERATURE}; "
            "pass 0 for greedy decoding",
            SamplingParamsWarning,
            stacklevel=5,  # the caller of the class
        )
        return LOWEST_TEMPERATURE
    return number


# Type checkers read from these converters what a field accepts.


def _as_max_tokens(value: int | None) -> int | Unset | None:
    given: Any = value  # the default is not for callers
    if given is None or given is Unset.UNSET:
        return given
    return as_positive("max_tokens", value, "an integer ≥ 1 or None")


def _as_stop(value: str | Iterable[str] | None) -> list[str]:
    value = [value] if isinstance(value, str) else value
    expected = "a non-empty string or a list of them"
    return list(as_items("stop", value, as_text, expected))


def _as_stop_token_ids(value: Iterable[int] | None) -> list[int]:
    expected = "a list of token ids (integers ≥ 0)"
    return list(as_items("stop_token_ids", value, _token_id, expected))


def _as_logit_bias(
    value: Mapping[int, float] | Iterable[tuple[int, float]] | None,
) -> dict[int, float]:
    expected = "a dict of token ids (integers ≥ 0) to numbers"
    try:
        biases = dict(() if value is None else value)
    except (TypeError, ValueError):
        raise refuse("logit_bias", expected, value) from None
    return dict(as_items("logit_bias", biases.items(), _bias, expected))


def _as_allowed_token_ids(value: Iterable[int] | None) -> list[int] | None:
    return sorted(_some_ids("allowed_token_ids", value)) or None


def _as_logprob_token_ids(value: Iterable[int] | None) -> list[int] | None:
    return list(_some_ids("logprob_token_ids", value)) or None


def _some_ids(name: str, value: Iterable[int] | None) -> tuple[int, ...]:
    expected = "None or a list of at least one token id (integers ≥ 0)"
    return as_items(name, value, _token_id, expected, at_least=1)


def _as_bad_words(value: Iterable[str] | None) -> list[str]:
    expected = "a list of valid Unicode texts that are not only spaces"
    words = list(as_items("bad_words", value, as_text, expected))
    if not all(map(_is_word, words)):
        raise refuse("bad_words", expected, words)
    return words


def _is_word(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return bool(text.strip())


def _as_count(value: Any) -> int:
    return 1 if value is True else as_integer(value)


_COUNT = "an integer ≥ -1", lambda n: n >= -1

_KEPT = "-1, an integer ≥ 1", lambda n: n >= 1 or n == -1


def _as_structured_outputs(
    value: StructuredOutputs | Mapping[str, Any] | None,
) -> StructuredOutputs | None:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return StructuredOutputs(**value)
    if value is None or isinstance(value, StructuredOutputs):
        return value
    raise refuse("structured_outputs", "StructuredOutputs, a dict or None", value)


@suggest_names(reasons=UNAVAILABLE_FIELDS, harmless=_HARMLESS_FIELDS)
@attrs.define(kw_only=True)
class SamplingParams:
    """How the next token is chosen and when a completion ends.

    Every field is a keyword and may be assigned, and its list or dict appended to. A
    request keeps a checked copy, so one object serves any number of requests. A call
    with params does not read sampling defaults from the model's
    ``generation_config.json``, as in vLLM; the model's EOS tokens always apply.

    Raises:
        InvalidParameterError: A value is impossible, also in an assignment, or two
            contradict each other.
        UnknownArgumentError: The keyword does not exist; names the nearest.
    """

    __module__ = "unillm"

    __struct_fields__: ClassVar[tuple[str, ...]]
    """Names of the fields; programs for vLLM, whose class is a msgspec struct, read
    it."""

    n: int = field(1, as_integer, f"in 1..{MAX_N}", lambda n: 1 <= n <= MAX_N)
    """Completions for each prompt, drawn independently."""

    presence_penalty: float = number_field(0.0, "in -2..2", lambda x: abs(x) <= 2)
    """Subtracted once from the logit of each token that the completion already has."""

    frequency_penalty: float = number_field(0.0, "in -2..2", lambda x: abs(x) <= 2)
    """Subtracted from a token's logit once for each time the completion has it."""

    repetition_penalty: float = number_field(1.0, "> 0", lambda x: 0 < x < math.inf)
    """Divides positive and multiplies negative logits of tokens that the prompt or
    the completion has; 1 is off, more than 1 discourages repetition."""

    temperature: float = field(
        1.0, _temperature, "a number in 0..2", lambda x: 0.0 <= x <= 2.0
    )
    """Softmax temperature in 0..2. 0 is greedy and ignores the other filters."""

    top_p: float = number_field(1.0, "in (0, 1]", lambda x: 0 < x <= 1)
    """Keep the smallest set of tokens with at least this probability together."""

    top_k: int = int_field(0, -1)
    """Keep the k most probable tokens; 0 and -1 keep all."""

    min_p: float = number_field(0.0, "in 0..1", lambda x: 0 <= x <= 1)
    """Drop tokens less probable than this share of the most probable one."""

    seed: int | None = field(None, _seed, "an integer of 64 bits", optional=True)
    """Makes the request reproducible beside any others; -1 is `None`, as in vLLM.
    Completion *i* of several uses ``seed + i``."""

    stop: list[str] = attrs.field(default=None, converter=_as_stop)
    """Texts that end a completion; not part of the text returned."""

    stop_token_ids: list[int] = attrs.field(default=None, converter=_as_stop_token_ids)
    """Token ids that end a completion, besides the model's EOS tokens."""

    ignore_eos: bool = bool_field(False)
    """Continue after the model's EOS tokens; `stop_token_ids` still stop."""

    _max_tokens: int | Unset | None = attrs.field(
        default=Unset.UNSET, converter=_as_max_tokens, alias="max_tokens"
    )

    min_tokens: int = int_field(0, 0)
    """New tokens at least: neither EOS nor a stop string ends the completion sooner,
    only the end of `structured_outputs` that allow nothing else."""

    logprobs: int | None = field(None, _as_count, *_COUNT, optional=True)
    """Log-probabilities of the chosen token and of this many most probable ones;
    0 for the chosen one only, -1 for the whole vocabulary, `None` for none; True is 1,
    as in vLLM."""

    prompt_logprobs: int | None = field(None, _as_count, *_COUNT, optional=True)
    """The same for the tokens of the prompt, in `RequestOutput.prompt_logprobs`."""

    logprob_token_ids: list[int] | None = attrs.field(
        default=None, converter=_as_logprob_token_ids
    )
    """Log-probabilities of the chosen token and of exactly these, such as labels.
    `logprobs` is `None` or their number. Tokens that are not chosen have no rank."""

    flat_logprobs: bool = bool_field(False)
    """Return both as `FlatLogprobs`, which reads like a list of dicts and holds a few
    lists of numbers, so that many of them cost the garbage collector nothing."""

    logit_bias: dict[int, float] = attrs.field(default=None, converter=_as_logit_bias)
    """Added to the logits of token ids before penalties and temperature: a number for
    each id, cut to ±100."""

    allowed_token_ids: list[int] | None = attrs.field(
        default=None, converter=_as_allowed_token_ids
    )
    """The only token ids that a completion may have; `None` allows all. The model can
    end the completion only if an EOS token is among them."""

    bad_words: list[str] = attrs.field(default=None, converter=_as_bad_words)
    """Texts that are never completed among the new tokens, with and without a space
    before them. As in vLLM, only the usual tokens of a text are banned, another
    spelling in tokens stays possible, and a word may begin in the prompt."""

    structured_outputs: StructuredOutputs | None = attrs.field(
        default=None, converter=_as_structured_outputs
    )
    """A constraint on the text: a `StructuredOutputs` or a dict of its fields. The
    model may end exactly where the text may, so an EOS token is the last of
    `token_ids`, unless `max_tokens` came first."""

    detokenize: bool = bool_field(True)
    """Make text of the token ids. Without it the text is empty, and
    `Logprob.decoded_token` is `None`."""

    spaces_between_special_tokens: bool = bool_field(True)
    """True leaves special tokens in the text as the tokenizer decodes them. False asks
    for no spaces between them: tokenizers whose tokens stand for themselves never put
    any; with the others, the request is refused."""

    skip_special_tokens: bool = bool_field(True)
    """Leave special tokens out of the text; they are always in `token_ids`."""

    include_stop_str_in_output: bool = bool_field(False)
    """Keep the stop string, or the text of the stop token, at the end of the text."""

    extra_args: dict[str, Any] | None = dict_field("extra_args")  # noqa: RUF009
    """Arguments by name for the logits processors of an engine that has its own."""

    truncate_prompt_tokens: int | None = field(None, as_integer, *_KEPT, optional=True)
    """Keep only the last tokens of a longer prompt: this many, or with -1 as many as
    the context takes. The output reports how many were cut."""

    def __attrs_post_init__(self) -> None:
        if self.n > 1 and self.greedy:
            raise InvalidParameterError(
                f"n={self.n} with temperature=0: greedy decoding gives the same "
                "completion each time. Raise the temperature, or ask for n=1.",
                parameter="n",
                value=self.n,
            )
        if self.structured_outputs is not None and self.ignore_eos:
            raise InvalidParameterError(
                "structured_outputs end with an EOS token of the model, and "
                "ignore_eos=True continues after it. Leave ignore_eos at False.",
                parameter="structured_outputs",
                value=self.structured_outputs,
            )
        if self.stop and not self.detokenize:
            raise InvalidParameterError(
                f"stop={self.stop} is searched for in the text, and detokenize="
                "False makes no text. Use stop_token_ids, or detokenize.",
                parameter="stop",
                value=self.stop,
            )
        labels = self.logprob_token_ids
        if labels is not None and self.logprobs not in (None, len(labels)):
            expected = f"None beside {len(labels)} logprob_token_ids"
            raise refuse("logprobs", expected, self.logprobs)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidParameterError(
                f"min_tokens={self.min_tokens} is more than max_tokens="
                f"{self.max_tokens}. Lower one or raise the other.",
                parameter="min_tokens",
                value=self.min_tokens,
            )

    @property
    def max_tokens(self) -> int | None:
        """New tokens at most; `None` for as many as the context holds.

        Without it, a completion goes on to its own end or to that of the context, on
        every backend; `LLM` alone has vLLM's 16 tokens then.
        """
        found = self._max_tokens
        return None if found is Unset.UNSET else found

    @max_tokens.setter
    def max_tokens(self, value: int | None) -> None:
        self._max_tokens = value

    @property
    def sets_max_tokens(self) -> bool:
        """Whether `max_tokens` was given, if only as `None`."""
        return self._max_tokens is not Unset.UNSET

    @classmethod
    def from_model(cls, generator: HasDefaults, **fields: Any) -> SamplingParams:
        """Return the model's own defaults with some fields changed.

        ``SamplingParams(max_tokens=64)`` leaves the model's ``generation_config.json``
        aside, as in vLLM; ``SamplingParams.from_model(generator, max_tokens=64)`` keeps
        its temperature, its filters and its penalties. `max_length` and `min_length` of
        the file, which count the prompt, hold for calls without params alone.

        Args:
            generator: A `Generator`, or an `LLM`.
            fields: Fields that replace those of the model.

        Raises:
            InvalidParameterError: A value is impossible, also one of the file.
            UnknownArgumentError: A field does not exist.
        """
        return attrs.evolve(generator.get_default_sampling_params(), **fields)

    @classmethod
    def from_optional(cls, **fields: Any) -> SamplingParams:
        """Return params in which `None` means "not given", as in vLLM.

        Only ``max_tokens=None`` keeps its meaning. Keys of `logit_bias` may be texts.
        """
        given = {
            name: value
            for name, value in fields.items()
            if value is not None or name == "max_tokens"
        }
        biases = given.get("logit_bias")
        if isinstance(biases, Mapping):
            given["logit_bias"] = {
                int(key) if str(key).isdecimal() else key: bias
                for key, bias in biases.items()
            }
        return cls(**given)

    def clone(self) -> SamplingParams:
        """Return a checked copy, which shares no list with this object."""
        return attrs.evolve(self)

    @property
    def greedy(self) -> bool:
        """Whether each token is the most probable one."""
        return self.temperature < GREEDY_BELOW

    def __repr__(self) -> str:
        """The fields that were given another value than the default."""
        given = [
            f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
            if not self.is_default(name)
            or (name == "max_tokens" and self.sets_max_tokens)
        ]
        return f"SamplingParams({', '.join(given)})"

    def is_default(self, name: str) -> bool:
        """Whether a field has its default value."""
        return bool(getattr(self, name) == getattr(_DEFAULTS, name))


_DEFAULTS = SamplingParams()

SamplingParams.__struct_fields__ = tuple(
    attribute.alias or attribute.name for attribute in attrs.fields(SamplingParams)
)
