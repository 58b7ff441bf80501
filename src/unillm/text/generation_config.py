# SPDX-License-Identifier: Apache-2.0

"""`ModelDefaults`: params and lengths of a call that passes none, by the model's files.

A ``generation_config.json`` is written for transformers' ``generate``, which has more
settings than `SamplingParams`. A setting that maps to a field is taken; one that
changes the answer and maps to none is named, never dropped in silence.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import InvalidParameterError, ModelLoadError
from ..fields import as_integer
from ..params import MAX_LOGIT_BIAS, SamplingParams
from .prompts import PreparedPrompt

log = logging.getLogger("unillm")

NOT_HONOURED: Mapping[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "max_time": (),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "penalty_alpha": (0.0,),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1.0,),
    "watermarking_config": (),
}
"""Settings of transformers' ``generate`` that change the answer and map to no field,
with the values besides `None` that turn them off.

References:
    ``GenerationConfig`` of transformers 5.19 and, for ``forced_decoder_ids``, 4.57.
"""

_OLD_DEFAULTS: Mapping[str, Any] = {"max_length": 20, "top_k": 50}
"""Values that older transformers wrote into ``config.json`` without being asked."""


@attrs.frozen(kw_only=True)
class ModelDefaults:
    """The params and lengths of a call that passes no params."""

    params: SamplingParams = attrs.field(factory=SamplingParams)
    max_length: int | None = None
    """Tokens of prompt and completion together at most; `None` for the context."""
    min_length: int = 0
    """Tokens of prompt and completion together at least."""
    source: str = "generation_config.json"
    """Name of the file that sets them."""
    not_honoured: Mapping[str, Any] = attrs.field(factory=dict)
    """Settings that change the answer and map to no field of `SamplingParams`."""
    refused: Mapping[str, str] = attrs.field(factory=dict)
    """Settings with impossible values, and why."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Settings of the file that no call gets, a phrase each."""
        shown = {name: reprlib.repr(value) for name, value in self.not_honoured.items()}
        return (
            *(f"no backend honours {name}={value}" for name, value in shown.items()),
            *(why.rstrip(".") for why in self.refused.values()),
        )

    def report(self, *, model: str, strict: bool) -> None:
        """Log a warning about what no call gets.

        Raises:
            ModelLoadError: There is something, and *strict* is true.
        """
        if not self.remarks:
            return
        remarks = f"{self.source} of {model}: {'; '.join(self.remarks)}."
        if strict:
            raise ModelLoadError(
                f"{remarks} Remove these settings from the file, or create the "
                "Generator without strict_generation_config."
            )
        log.warning("%s Answers may differ from those of transformers.", remarks)

    def check(self) -> SamplingParams:
        """Return the params.

        Raises:
            InvalidParameterError: A setting has an impossible value.
        """
        for name, why in self.refused.items():
            raise InvalidParameterError(
                f"{self.source} of the model has an impossible value: {why} Correct "
                "the file, or pass SamplingParams.",
                parameter=name,
            )
        return self.params

    def fit(
        self, prepared: PreparedPrompt, params: SamplingParams
    ) -> tuple[PreparedPrompt, SamplingParams]:
        """Return a prompt and its params within the two lengths that count the prompt.

        A prompt that is as long as `max_length` still gets one new token.
        """
        prompt_tokens = len(prepared.token_ids)
        room = prepared.max_new_tokens
        if self.max_length is not None:
            room = min(room, max(1, self.max_length - prompt_tokens))
            prepared = attrs.evolve(prepared, max_new_tokens=room)
        wanted = min(room, self.min_length - prompt_tokens)
        if wanted > params.min_tokens:
            params = attrs.evolve(params, min_tokens=wanted)
        return prepared, params


def read_defaults(
    content: Mapping[str, Any],
    *,
    source: str = "generation_config.json",
    base: SamplingParams | None = None,
    vocab_size: int | None = None,
) -> ModelDefaults:
    """Return the defaults in the content of a ``generation_config.json``.

    Args:
        content: The file's settings. ``do_sample`` is not read, as in vLLM: a model
            asks for greedy decoding with ``temperature: 0``.
        source: Name of the file.
        base: Params that hold where the file says nothing; `None` for the class's own.
        vocab_size: Rows of the model. No id from there on can be chosen, so its bias
            is left out; `None` if the size is not known.
    """
    given = {name: value for name, value in content.items() if value is not None}
    params = SamplingParams() if base is None else base
    if "max_new_tokens" in given:
        given.pop("max_length", None)  # as in transformers
    lengths: dict[str, int] = {}
    refused: dict[str, str] = {}
    for name in given.keys() & _LENGTHS:
        if isinstance(given[name], int):
            lengths[name] = given[name]
        else:
            refused[name] = f"{name} must be an integer, got {given[name]!r}."
    for name, read in _READINGS.items():
        try:
            if name in given:
                params = attrs.evolve(params, **read(params, given[name]))
        except InvalidParameterError as error:  # noqa: PERF203 - each on its own
            refused[name] = str(error)
        except (TypeError, ValueError, LookupError, OverflowError):
            refused[name] = (
                f"{name} must have the form that transformers writes, "
                f"got {given[name]!r}."
            )
    if vocab_size is not None:
        kept = {i: bias for i, bias in params.logit_bias.items() if i < vocab_size}
        params = attrs.evolve(params, logit_bias=kept)
    return ModelDefaults(
        params=params,
        **lengths,
        source=source,
        not_honoured=dict(_not_honoured(given)),
        refused=refused,
    )


def settings_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation settings in a ``config.json``.

    As for transformers, they count only in a model without ``generation_config.json``,
    and those of the decoder, in ``text_config``, fill what the others leave open.
    """
    decoder = config.get("text_config")
    merged = {**(decoder if isinstance(decoder, Mapping) else {}), **config}
    return {
        name: merged[name]
        for name in (_READINGS.keys() | _LENGTHS | NOT_HONOURED.keys()) & merged.keys()
        if merged[name] != _OLD_DEFAULTS.get(name)
    }


def _not_honoured(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, neutral in NOT_HONOURED.items():
        if name in given and given[name] not in neutral:
            yield name, given[name]
    sequences = _items(given.get("bad_words_ids"))
    if longer := [ids for ids in sequences if len(_items(ids)) > 1]:
        yield "bad_words_ids", longer
    pairs = map(_items, _items(given.get("sequence_bias")))
    if longer := [pair for pair in pairs if pair and len(_items(pair[0])) > 1]:
        yield "sequence_bias", longer


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# ---------------------------------------------------------------------------- readings

_Reading = Callable[[SamplingParams, Any], dict[str, Any]]


def _field(name: str) -> _Reading:
    return lambda _, value: {name: value}


def _min_new_tokens(params: SamplingParams, value: Any) -> dict[str, Any]:
    if params.max_tokens is None:  # which may mean that none is set
        return {"min_tokens": value}
    # The maximum of *base* gives way; one of the file comes later and does not.
    longest = max(params.max_tokens, as_integer(value))
    return {"min_tokens": value, "max_tokens": longest}


def _suppress_tokens(params: SamplingParams, value: Any) -> dict[str, Any]:
    return _biased(params, (([token_id], -MAX_LOGIT_BIAS) for token_id in value))


def _bad_words_ids(params: SamplingParams, value: Any) -> dict[str, Any]:
    return _biased(params, ((ids, -MAX_LOGIT_BIAS) for ids in value))


def _biased(
    params: SamplingParams, pairs: Iterable[tuple[list[int], float]]
) -> dict[str, Any]:
    biases = dict(params.logit_bias)
    for ids, bias in pairs:
        if len(ids) == 1:
            biases[ids[0]] = biases.get(ids[0], 0.0) + bias
    return {"logit_bias": biases}


_READINGS: Mapping[str, _Reading] = {
    "temperature": _field("temperature"),
    "top_k": _field("top_k"),
    "top_p": _field("top_p"),
    "min_p": _field("min_p"),
    "repetition_penalty": _field("repetition_penalty"),
    "presence_penalty": _field("presence_penalty"),
    "frequency_penalty": _field("frequency_penalty"),
    "min_new_tokens": _min_new_tokens,
    "max_new_tokens": _field("max_tokens"),
    "stop_strings": _field("stop"),
    "suppress_tokens": _suppress_tokens,
    "bad_words_ids": _bad_words_ids,
    "sequence_bias": _biased,
    "num_return_sequences": _field("n"),
}
"""Settings that map to fields, in an order in which each sees what it depends on."""

_LENGTHS = frozenset({"max_length", "min_length"})
