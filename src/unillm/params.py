# SPDX-License-Identifier: Apache-2.0

"""`SamplingParams`: how the next token is chosen and what ends a completion.

Names, meanings and defaults are vLLM's (0.32), on every backend. Values are checked
here, when an object is made and when a field is assigned; what only several fields
together can get wrong is checked again when a request is made, from a copy that the
request keeps. So one object may serve any number of requests and be changed between
them, as programs for vLLM do.
"""

from __future__ import annotations

import json as _json
import math
import numbers
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from .errors import InvalidParameterError
from .keywords import suggest_names

MAX_COMPLETIONS = 16_384
"""Largest `n`: vLLM's default of ``VLLM_MAX_N_SEQUENCES``."""

MAX_TEMPERATURE = 2.0
MAX_LOGIT_BIAS = 100.0
"""A larger bias, of either sign, is cut to this, as in vLLM."""

GREEDY_BELOW = 1e-5
"""A temperature under this is greedy, as in vLLM."""

LOWEST_TEMPERATURE = 0.01
"""Dividing logits by less overflows half precision; vLLM raises such values to this."""


_GENERATION_CONFIG_FIELDS = {
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "max_new_tokens": "max_tokens",
}
"""Name in ``generation_config.json`` to ours."""

_BEAM = "no beam search here; vLLM took it out of SamplingParams"
_HOST_LOGITS = (
    "it would run code of the caller between the engine's steps; logit_bias, "
    "allowed_token_ids, bad_words and structured_outputs are what every engine can do"
)

NOT_HERE: Mapping[str, str] = {
    "best_of": "vLLM removed it; ask for n completions and take the one you want",
    "early_stopping": _BEAM,
    "end_id": "end ids are found in the model; name others with stop_token_ids",
    "extra_args": "no backend takes arguments that unillm does not know",
    "flat_logprobs": "logprobs have one form, a list of dicts",
    "guided_decoding": "vLLM renamed it; pass structured_outputs=StructuredOutputs(…)",
    "length_penalty": _BEAM,
    "logits_processors": _HOST_LOGITS,
    "logprob_token_ids": "logprobs=k tells of the k most probable tokens, -1 of all",
    "output_kind": "generate() returns what is finished, stream() yields what is new",
    "prompt_logprob_start": "prompt_logprobs tells of the whole prompt",
    "prompt_logprob_token_ids": "prompt_logprobs=k tells of the k most probable tokens",
    "repetition_detection": "no backend can; see the repetition penalties",
    "routed_experts_prompt_start": "routing inside the model is not told",
    "skip_clone": "a request always keeps a copy of its params",
    "skip_reading_prefix_cache": "a prefix cache is on or off for the whole engine; "
    "see enable_prefix_caching",
    "stream_interval": "a stream yields what has come since it was last asked",
    "thinking_token_budget": "unillm does not tell reasoning from answers",
    "trace_decode_token_ids": "it is a tool for the makers of vLLM",
    "use_beam_search": _BEAM,
    "watermarking": "no backend marks its text",
}
"""Sampling fields that other libraries have, or vLLM had, and why they are not here."""

NOT_IN_STRUCTURED_OUTPUTS: Mapping[str, str] = {
    "disable_additional_properties": 'say "additionalProperties": false in the schema',
    "structural_tag": "no backend can; a grammar may hold JSON between other text",
}
"""Fields of vLLM's ``StructuredOutputsParams`` that are not here."""


class SamplingParamsWarning(UserWarning):
    """A sampling parameter was changed to the nearest value that works."""


def _refuse(field: str, expected: str, value: Any) -> InvalidParameterError:
    return InvalidParameterError(
        f"{field} must be {expected}, got {value!r}.", parameter=field, value=value
    )


def _integer(field: str, value: Any, expected: str) -> int:
    if isinstance(value, bool):
        raise _refuse(field, expected, value)
    try:
        return operator.index(value)
    except TypeError:
        raise _refuse(field, expected, value) from None


def _number(field: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _refuse(field, expected, value)
    return float(value)


def _int_field(
    default: int | None, low: int, high: float = math.inf, *, optional: bool = False
) -> Any:
    """An integer in ``low..high``; `None` too if *optional*."""
    expected = f"an integer ≥ {low}" if high == math.inf else f"in {low}..{high:.0f}"
    expected += " or None" if optional else ""

    def convert(value: Any, field: attrs.Attribute[Any]) -> int | None:
        if value is None and optional:
            return None
        number = _integer(field.name, value, expected)
        if not low <= number <= high:
            raise _refuse(field.name, expected, value)
        return number

    converter = attrs.Converter(convert, takes_field=True)
    return attrs.field(default=default, converter=converter)


def _float_field(default: float, accept: Callable[[float], bool], expected: str) -> Any:
    def convert(value: Any, field: attrs.Attribute[Any]) -> float:
        number = _number(field.name, value, expected)
        if not (math.isfinite(number) and accept(number)):
            raise _refuse(field.name, expected, value)
        return number

    converter = attrs.Converter(convert, takes_field=True)
    return attrs.field(default=default, converter=converter)


def _bool_field(default: bool) -> Any:
    def convert(value: Any, field: attrs.Attribute[Any]) -> bool:
        if not isinstance(value, bool):
            raise _refuse(field.name, "True or False", value)
        return value

    converter = attrs.Converter(convert, takes_field=True)
    return attrs.field(default=default, converter=converter)


def _as_temperature(value: Any) -> float:
    expected = f"a number in 0..{MAX_TEMPERATURE:g}"
    number = _number("temperature", value, expected)
    if not 0.0 <= number <= MAX_TEMPERATURE:  # also refuses NaN
        raise _refuse("temperature", expected, value)
    if GREEDY_BELOW <= number < LOWEST_TEMPERATURE:
        warnings.warn(
            f"temperature {number:g} is raised to {LOWEST_TEMPERATURE}; "
            "pass 0 for greedy decoding",
            SamplingParamsWarning,
            stacklevel=4,  # whoever called the class
        )
        return LOWEST_TEMPERATURE
    return number


def _as_stop(value: str | Iterable[str] | None) -> tuple[str, ...]:
    expected = "a non-empty string or a list of them"
    if value is None:
        return ()
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable):
        raise _refuse("stop", expected, value)
    strings = tuple(value)
    for text in strings:
        if not isinstance(text, str) or not text:
            raise _refuse("stop", expected, text)
    return tuple(dict.fromkeys(strings))


def _as_stop_token_ids(value: Iterable[int] | None) -> tuple[int, ...]:
    expected = "a list of token ids (integers ≥ 0)"
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _refuse("stop_token_ids", expected, value)
    ids = tuple(_integer("stop_token_ids", item, expected) for item in value)
    for token_id in ids:
        if token_id < 0:
            raise _refuse("stop_token_ids", expected, token_id)
    return tuple(dict.fromkeys(ids))


def _as_logit_bias(
    value: Mapping[int, float] | Iterable[tuple[int, float]] | None,
) -> tuple[tuple[int, float], ...]:
    expected = "a dict of token ids (integers ≥ 0) to numbers"
    try:
        pairs = list(dict(() if value is None else value).items())
    except (TypeError, ValueError):
        raise _refuse("logit_bias", expected, value) from None
    biases = {}
    for key, bias in pairs:
        token_id = _integer("logit_bias", key, expected)
        number = _number("logit_bias", bias, expected)
        if token_id < 0 or math.isnan(number):
            raise _refuse("logit_bias", expected, value)
        biases[token_id] = max(-MAX_LOGIT_BIAS, min(MAX_LOGIT_BIAS, number))
    return tuple(sorted(biases.items()))


def _as_allowed_token_ids(value: Iterable[int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    expected = "None or a list of at least one token id (integers ≥ 0)"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _refuse("allowed_token_ids", expected, value)
    ids = {_integer("allowed_token_ids", item, expected) for item in value}
    if not ids or min(ids) < 0:
        raise _refuse("allowed_token_ids", expected, value)
    return tuple(sorted(ids))


def _as_bad_words(value: Iterable[str] | None) -> tuple[str, ...]:
    expected = "a list of texts that are more than spaces"
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _refuse("bad_words", expected, value)
    words = tuple(value)
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise _refuse("bad_words", expected, word)
    return tuple(dict.fromkeys(words))


def _as_seed(value: Any) -> int | None:
    if value is None:
        return None
    seed = _integer("seed", value, "an integer or None")
    if not -(2**63) <= seed < 2**63:
        raise _refuse("seed", "an integer of 64 bits", value)
    return None if seed == -1 else seed  # -1 means unseeded, as in vLLM


def _as_truncation(value: Any) -> int | None:
    expected = "None, -1 (what fits) or an integer ≥ 1"
    if value is None:
        return None
    number = _integer("truncate_prompt_tokens", value, expected)
    if number < 1 and number != -1:
        raise _refuse("truncate_prompt_tokens", expected, value)
    return number


def _as_schema(value: Any) -> str | None:
    """Return a JSON schema as text, so that it can neither change nor surprise."""
    expected = "a JSON schema (dict or text) or a pydantic model class"
    if value is None:
        return None
    make = getattr(value, "model_json_schema", None)
    try:
        if isinstance(value, type) and callable(make):
            value = make()
        if isinstance(value, (str, bytes)):
            value = _json.loads(value)
        if not isinstance(value, Mapping):
            raise _refuse("json", expected, value)
        return _json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidParameterError):
            raise
        raise InvalidParameterError(
            f"json must be {expected}: {type(error).__name__}: {error}.",
            parameter="json",
        ) from error


def _as_choice(value: Iterable[str] | None) -> tuple[str, ...] | None:
    expected = "a list of at least one non-empty text"
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _refuse("choice", expected, value)
    options = tuple(dict.fromkeys(value))
    if not options or not all(isinstance(each, str) and each for each in options):
        raise _refuse("choice", expected, options)
    return options


def _optional_text(value: Any, field: attrs.Attribute[Any]) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise _refuse(field.name, "a non-empty text or None", value)
    return value


def _text_field() -> Any:
    converter = attrs.Converter(_optional_text, takes_field=True)
    return attrs.field(default=None, converter=converter)


@suggest_names(reasons=NOT_IN_STRUCTURED_OUTPUTS)
@attrs.frozen(kw_only=True)
class StructuredOutputs:
    """What the text of a completion has to be. Exactly one of the first five.

    Names are those of vLLM's ``StructuredOutputsParams``.

    Raises:
        InvalidParameterError: None or several are given, or one is impossible. What
            only the compiler can tell is raised when a request is submitted.
        UnknownArgumentError: The keyword does not exist; names the nearest.
    """

    __module__ = "unillm"

    json: str | None = attrs.field(default=None, converter=_as_schema)
    """A JSON schema as dict or text, or a pydantic model class; kept as text."""
    regex: str | None = _text_field()
    """The whole text matches it. No look-around, no back-references."""
    choice: tuple[str, ...] | None = attrs.field(default=None, converter=_as_choice)
    """The text is one of these."""
    grammar: str | None = _text_field()
    """A context-free grammar in Lark's notation, from the rule ``start``."""
    json_object: bool = _bool_field(False)
    """Any JSON object."""

    disable_any_whitespace: bool = _bool_field(False)
    """JSON without spaces and line breaks between its parts."""
    whitespace_pattern: str | None = _text_field()
    """A regex for what may stand between the parts of JSON."""

    def __attrs_post_init__(self) -> None:
        kinds = ("json", "regex", "choice", "grammar", "json_object")
        given = [kind for kind in kinds if getattr(self, kind)]
        if len(given) != 1:
            raise InvalidParameterError(
                f"structured_outputs needs exactly one of {', '.join(kinds)}; got "
                f"{' and '.join(given) or 'none'}.",
                parameter="structured_outputs",
                value=given,
            )

    @property
    def kind(self) -> str:
        """Which of the five is given."""
        kinds = ("json", "regex", "choice", "grammar")
        return next((kind for kind in kinds if getattr(self, kind)), "json_object")

    @property
    def source(self) -> str:
        """The text that says what is wanted."""
        choices = "\n".join(self.choice or ())
        text = self.json or self.regex or self.grammar or choices
        return text or '{"type": "object"}'


StructuredOutputsParams = StructuredOutputs
"""The same under vLLM's name."""


def _as_structured_outputs(value: Any) -> StructuredOutputs | None:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return StructuredOutputs(**value)
    if value is None or isinstance(value, StructuredOutputs):
        return value
    raise _refuse("structured_outputs", "StructuredOutputs, a dict or None", value)


@suggest_names(reasons=NOT_HERE)
@attrs.define(kw_only=True)
class SamplingParams:
    """How the next token is chosen and what ends a completion.

    Every field is a keyword. Passing params at all means that the model's
    ``generation_config.json`` is not consulted for sampling (as in vLLM); its
    end-of-sequence ids always apply.

    Fields may be assigned. A request keeps the values of the moment it was made.

    Raises:
        InvalidParameterError: A value is impossible, also in an assignment, or two
            contradict each other.
        UnknownArgumentError: The keyword does not exist; names the nearest.
    """

    __module__ = "unillm"

    n: int = _int_field(1, 1, MAX_COMPLETIONS)
    """Completions for each prompt, drawn independently."""

    presence_penalty: float = _float_field(
        0.0, lambda x: -2.0 <= x <= 2.0, "a number in -2..2"
    )
    """Subtracted once from the logit of each token that the completion already has."""

    frequency_penalty: float = _float_field(
        0.0, lambda x: -2.0 <= x <= 2.0, "a number in -2..2"
    )
    """Subtracted from a token's logit once for each time the completion has it."""

    repetition_penalty: float = _float_field(1.0, lambda x: x > 0.0, "a number > 0")
    """Divides positive and multiplies negative logits of tokens that the prompt or
    the completion has; 1 is off, more than 1 discourages repetition."""

    temperature: float = attrs.field(default=1.0, converter=_as_temperature)
    """Softmax temperature in 0..2. 0 is greedy and ignores the other filters."""

    top_p: float = _float_field(1.0, lambda x: 0.0 < x <= 1.0, "a number in (0, 1]")
    """Keep the smallest set of tokens with at least this probability together."""

    top_k: int = _int_field(0, -1)
    """Keep the k most probable tokens; 0 and -1 keep all."""

    min_p: float = _float_field(0.0, lambda x: 0.0 <= x <= 1.0, "a number in 0..1")
    """Drop tokens less probable than this share of the most probable one."""

    seed: int | None = attrs.field(default=None, converter=_as_seed)
    """Makes the request reproducible, whatever runs beside it. Completion *i* of
    several uses ``seed + i``."""

    stop: Sequence[str] = attrs.field(default=(), converter=_as_stop)
    """Texts that end a completion; not part of the text returned."""

    stop_token_ids: Sequence[int] = attrs.field(
        default=(), converter=_as_stop_token_ids
    )
    """Token ids that end a completion, besides the model's own."""

    ignore_eos: bool = _bool_field(False)
    """Go on after the model's end-of-sequence ids; `stop_token_ids` still stop."""

    max_tokens: int | None = _int_field(16, 1, optional=True)
    """New tokens at most; `None` for as many as the context holds."""

    min_tokens: int = _int_field(0, 0)
    """Nothing ends the completion before it has this many tokens."""

    logprobs: int | None = _int_field(None, -1, optional=True)
    """Log-probabilities of the chosen token and of this many most probable ones;
    0 for the chosen one only, -1 for the whole vocabulary, `None` for none."""

    prompt_logprobs: int | None = _int_field(None, -1, optional=True)
    """The same for the tokens of the prompt, in `RequestOutput.prompt_logprobs`."""

    logit_bias: tuple[tuple[int, float], ...] = attrs.field(
        default=(), converter=_as_logit_bias
    )
    """Added to the logits of token ids before penalties and temperature: a dict of id
    to number, cut to ±100, kept as sorted pairs."""

    allowed_token_ids: Sequence[int] | None = attrs.field(
        default=None, converter=_as_allowed_token_ids
    )
    """Nothing else is generated; `None` allows all. An end id has to be among them for
    the model to end by itself."""

    bad_words: Sequence[str] = attrs.field(default=(), converter=_as_bad_words)
    """Texts whose token ids, with and without a space before them, are never completed.
    As in vLLM it is their usual tokens that are banned: another way to spell the same
    text in tokens stays possible."""

    structured_outputs: StructuredOutputs | None = attrs.field(
        default=None, converter=_as_structured_outputs
    )
    """What the text has to be: a `StructuredOutputs` or a dict of its fields. The model
    may end exactly where the text may, so an end id is the last of `token_ids`, unless
    `max_tokens` came first."""

    detokenize: bool = _bool_field(True)
    """Make text of the token ids. Without it the text is empty, and
    `Logprob.decoded_token` is `None`."""

    spaces_between_special_tokens: bool = _bool_field(True)
    """True leaves special tokens in the text as the tokenizer decodes them. False wants
    no spaces put between them: tokenizers whose tokens stand for themselves never put
    any; the others are refused."""

    skip_special_tokens: bool = _bool_field(True)
    """Leave special tokens out of the text; they are always in `token_ids`."""

    include_stop_str_in_output: bool = _bool_field(False)
    """Keep the stop string, or the text of the stop token, at the end of the text."""

    truncate_prompt_tokens: int | None = attrs.field(
        default=None, converter=_as_truncation
    )
    """Keep only the last tokens of a longer prompt: this many, or with -1 as many as
    the context takes. The output says how many were cut."""

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
                "structured_outputs end with the model's end id, and ignore_eos=True "
                "goes on after it. Leave ignore_eos at False.",
                parameter="structured_outputs",
                value=self.structured_outputs,
            )
        if self.stop and not self.detokenize:
            raise InvalidParameterError(
                f"stop={list(self.stop)} needs text to be found in, and detokenize="
                "False makes none. Use stop_token_ids, or detokenize.",
                parameter="stop",
                value=self.stop,
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidParameterError(
                f"min_tokens={self.min_tokens} is more than max_tokens="
                f"{self.max_tokens}. Lower one or raise the other.",
                parameter="min_tokens",
                value=self.min_tokens,
            )

    @classmethod
    def from_generation_config(
        cls, config: Mapping[str, Any], *, base: SamplingParams | None = None
    ) -> SamplingParams:
        """Return what a call without params uses: the model's own defaults.

        Takes the fields that vLLM takes and no others; ``do_sample`` is not one of
        them, so a model that wants greedy decoding says ``temperature: 0``.

        Args:
            config: A ``generation_config.json``, read.
            base: Where the other fields come from; `None` for the class's defaults.

        References:
            ``get_default_sampling_params``, vLLM 0.32.
        """
        given = {
            ours: config[theirs]
            for theirs, ours in _GENERATION_CONFIG_FIELDS.items()
            if config.get(theirs) is not None
        }
        return attrs.evolve(cls() if base is None else base, **given)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken each time."""
        return self.temperature < GREEDY_BELOW
