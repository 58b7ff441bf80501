# SPDX-License-Identifier: Apache-2.0

"""Beam search over a `Generator`: one new token for each beam and call.

As in vLLM, the engine sees ordinary requests for one token with log-probabilities, so
every backend that returns these has beam search. It costs a call a token.

References:
    ``entrypoints/generate/beam_search``, vLLM 0.32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import attrs

from ..errors import UnsupportedParameterError
from ..fields import as_integer, bool_field, int_field, number_field, refuse
from ..fields import field as checked_field
from ..generator import Generator
from ..keywords import suggest_names
from ..lora import LoRARequest
from ..outputs import Logprob, RequestOutput
from ..params import MAX_N, SamplingParams


def _no_structure(
    _: BeamSearchParams, attribute: attrs.Attribute[Any], value: Any
) -> None:
    if value is not None:
        raise UnsupportedParameterError(
            "beam_search cannot honour structured_outputs: the engine ranks tokens "
            "before a constraint. Pass them in SamplingParams to generate().",
            parameter=attribute.name,
            value=value,
        )


@suggest_names(harmless={"watermarking": (None, False)})
@attrs.define
class BeamSearchParams:
    """How a beam search runs, with vLLM's names and order.

    Raises:
        InvalidParameterError: A value is impossible.
        UnsupportedParameterError: `structured_outputs` are given.
    """

    __module__ = "unillm"

    beam_width: int = checked_field(
        attrs.NOTHING, as_integer, f"in 1..{MAX_N}", lambda n: 1 <= n <= MAX_N
    )
    """Beams that are kept after each token, and sequences that are returned."""
    max_tokens: int = int_field(attrs.NOTHING, 1)  # type: ignore[arg-type]
    """New tokens at most."""
    ignore_eos: bool = bool_field(False)
    """Continue beams after an EOS token."""
    temperature: float = number_field(0.0, "in 0..2", lambda x: 0 <= x <= 2)
    """Above 0, a token drawn at this temperature is a candidate too, as in vLLM."""
    length_penalty: float = number_field(1.0, "that is finite", math.isfinite)
    """A sequence's score is its log-probability divided by its length, prompt included,
    to this power."""
    include_stop_str_in_output: bool = bool_field(False)
    """Has no effect, as in vLLM."""
    structured_outputs: Any = attrs.field(default=None, validator=_no_structure)
    """`None`."""
    skip_special_tokens: bool = bool_field(True)
    """Leave special tokens out of the text."""


@dataclass
class BeamSearchSequence:
    """A prompt with one continuation."""

    orig_prompt: dict[str, Any]
    tokens: list[int]
    """Ids of the prompt and the new ones, including the EOS token that ended it."""
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    """For each new token, the candidates that it was one of."""
    lora_request: LoRARequest | None = None
    cum_logprob: float = 0.0
    text: str | None = None
    """Text of all `tokens`, the prompt's too."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class BeamSearchOutput:
    """The best sequences of a prompt, best first."""

    sequences: list[BeamSearchSequence]


@attrs.define
class _Search:
    """The search for one prompt."""

    prompt: Any
    lora_request: LoRARequest | None
    beams: list[BeamSearchSequence] = attrs.field(factory=list)
    completed: list[BeamSearchSequence] = attrs.field(factory=list)


class BeamSearcher:
    """Runs beam searches for many prompts at the same time."""

    def __init__(self, generator: Generator, params: BeamSearchParams) -> None:
        self._generator = generator
        self._params = attrs.evolve(params)
        self._one_token = SamplingParams(
            temperature=params.temperature,
            max_tokens=1,
            logprobs=2 * params.beam_width,
            detokenize=False,
        )
        self._eos_ids = generator.eos_token_ids

    def search(
        self,
        prompts: Sequence[Any],
        adapters: Sequence[LoRARequest | None],
    ) -> list[BeamSearchOutput]:
        """Return the best sequences for each prompt.

        Raises:
            RequestError: A prompt is refused.
        """
        searches = [_Search(*each) for each in zip(prompts, adapters, strict=True)]
        self._begin(searches)
        for _ in range(self._params.max_tokens - 1):
            if not self._step(searches):
                break
        return [self._finish(search) for search in searches]

    def _begin(self, searches: Sequence[_Search]) -> None:
        """Compute the candidates after the prompts, which become token ids here."""
        outputs = self._next_tokens(
            [each.prompt for each in searches], [each.lora_request for each in searches]
        )
        for search, output in zip(searches, outputs, strict=True):
            ids = list(output.prompt_token_ids)
            prompt = {"type": "token", "prompt_token_ids": ids, "prompt": output.prompt}
            adapter = search.lora_request
            empty = BeamSearchSequence(prompt, ids, lora_request=adapter)
            self._extend(search, [(empty, output)])

    def _step(self, searches: Sequence[_Search]) -> bool:
        """Add a token to each beam; return whether there was one to extend."""
        longest = self._generator.limits.longest_prompt
        for search in searches:  # beams that fill the context stay as they are
            full = [each for each in search.beams if len(each.tokens) > longest]
            search.completed += full
            search.beams = [each for each in search.beams if each not in full]
        beams = [beam for search in searches for beam in search.beams]
        if not beams:
            return False
        outputs = iter(
            self._next_tokens(
                [{"prompt_token_ids": beam.tokens} for beam in beams],
                [beam.lora_request for beam in beams],
            )
        )
        for search in searches:
            self._extend(search, [(beam, next(outputs)) for beam in search.beams])
        return True

    def _next_tokens(
        self, prompts: Sequence[Any], adapters: Sequence[LoRARequest | None]
    ) -> list[RequestOutput]:
        return self._generator.generate(
            list(prompts),
            self._one_token,
            lora_request=list(adapters),
            use_tqdm=False,
        )

    def _extend(
        self,
        search: _Search,
        news: Sequence[tuple[BeamSearchSequence, RequestOutput]],
    ) -> None:
        """Replace the beams of a search by the best of their continuations."""
        continued: list[BeamSearchSequence] = []
        for beam, output in news:
            [candidates] = output.outputs[0].logprobs or [{}]
            for token_id, at in candidates.items():
                longer = BeamSearchSequence(
                    beam.orig_prompt,
                    [*beam.tokens, token_id],
                    [*beam.logprobs, candidates],
                    beam.lora_request,
                    beam.cum_logprob + at.logprob,
                )
                ended = token_id in self._eos_ids and not self._params.ignore_eos
                (search.completed if ended else continued).append(longer)
        search.beams = self._best(continued)

    def _finish(self, search: _Search) -> BeamSearchOutput:
        from ..text.loading import load_tokenizer

        tokenizer = load_tokenizer(self._generator.get_tokenizer())
        best = self._best([*search.completed, *search.beams])
        for each in best:
            each.text = tokenizer.decode(
                each.tokens, skip_special_tokens=self._params.skip_special_tokens
            )
        return BeamSearchOutput(best)

    def _best(
        self, sequences: Sequence[BeamSearchSequence]
    ) -> list[BeamSearchSequence]:
        ranked = sorted(sequences, key=self._score, reverse=True)
        return ranked[: self._params.beam_width]

    def _score(self, sequence: BeamSearchSequence) -> float:
        length = len(sequence.tokens) - (sequence.tokens[-1] in self._eos_ids)
        return float(
            sequence.cum_logprob / max(length, 1) ** self._params.length_penalty
        )


def as_beam_params(given: Any) -> BeamSearchParams:
    """Return the params of a beam search; those of an installed vLLM are taken."""
    if isinstance(given, BeamSearchParams):
        return given
    names = [each.name for each in attrs.fields(BeamSearchParams)]
    found: Mapping[str, Any] = {
        name: getattr(given, name) for name in names if hasattr(given, name)
    }
    if not {"beam_width", "max_tokens"} <= found.keys():
        raise refuse("params", "BeamSearchParams", given)
    return BeamSearchParams(**found)
