# SPDX-License-Identifier: Apache-2.0

"""The bundled model in plain numpy: the oracle of the contract.

It shares no code with an engine or `unillm.sampling`. It computes one sequence at a
time in float64 and applies the rules of `SamplingParams` one after the other, as their
documentation reads.

`ReferenceModel` returns logits, `ReferenceScript` the tokens of whole requests. The
latter is a script for the engines of `unillm.testing.scripted`, which so become
backends that serve the bundled model without torch.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines.base import TokenLogprobs
from ..engines.slots import SlotToken
from ..model.checkpoint import read_config
from ..model.find import find_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..engines.base import EngineRequest, TokenGrammarState
    from ..params import SamplingParams

    _Array = NDArray[np.float64]
    _KeysValues = tuple[_Array, _Array]

_KEPT_SEQUENCES = 128
"""Sequences whose keys and values are kept, so that a next token costs one position."""
_KEPT_LOGITS = 1 << 15
"""Rows of logits that are kept, of 4 KiB each."""


class ReferenceModel:
    """The logits of a Llama after any ids, cached.

    Args:
        path: Directory with ``config.json`` and ``model.safetensors`` of a Llama with
            plain rotary positions and tied embeddings, as the bundled model is.
    """

    def __init__(self, path: Path | None = None) -> None:
        from safetensors.numpy import load_file

        path = path or find_model("unillm/tiny")
        config = read_config(path)
        self.vocab_size: int = config["vocab_size"]
        self.max_model_len: int = config["max_position_embeddings"]
        self._layers: int = config["num_hidden_layers"]
        self._kv_heads: int = config["num_key_value_heads"]
        self._head_dim: int = config["head_dim"]
        self._eps: float = config["rms_norm_eps"]
        self._weights = {
            name.removeprefix("model."): value.astype(np.float64)
            for name, value in load_file(path / "model.safetensors").items()
        }
        half = np.arange(0, self._head_dim, 2) / self._head_dim
        theta = config["rope_parameters"]["rope_theta"]
        angles = np.outer(np.arange(self.max_model_len), theta**-half)
        self._cos = np.cos(np.concatenate([angles, angles], -1))[:, None]
        self._sin = np.sin(np.concatenate([angles, angles], -1))[:, None]
        self._caches: OrderedDict[tuple[int, ...], list[_KeysValues]] = OrderedDict()
        self._rows: OrderedDict[tuple[int, ...], _Array] = OrderedDict()

    def logits(self, token_ids: Sequence[int]) -> _Array:
        """Return ``[vocab]``: the logits after *token_ids*."""
        ids = tuple(token_ids)
        if ids not in self._rows:
            self._compute(ids)
        return self._rows[ids]

    def logprobs(self, token_ids: Sequence[int]) -> _Array:
        """Return ``[vocab]``: the log-probabilities after *token_ids*."""
        return _log_softmax(self.logits(token_ids))

    def _compute(self, ids: tuple[int, ...]) -> None:
        """Compute the positions of *ids* that are not cached."""
        start = len(ids) - 1 if ids[:-1] in self._caches else 0
        known: Sequence[_KeysValues | None] | None = self._caches.get(ids[:-1])
        caches = known or [None] * self._layers
        states = self._weights["embed_tokens.weight"][list(ids[start:])]
        updated = []
        for layer, cache in enumerate(caches):
            states, cache = self._layer(layer, states, cache, start)  # noqa: PLW2901
            updated.append(cache)
        states = self._norm("norm", states)
        rows = states @ self._weights["embed_tokens.weight"].T
        assert np.isfinite(rows).all()
        for length, row in enumerate(rows, start + 1):
            _keep(self._rows, ids[:length], row, _KEPT_LOGITS)
        _keep(self._caches, ids, updated, _KEPT_SEQUENCES)

    def _layer(
        self,
        layer: int,
        states: _Array,
        cache: _KeysValues | None,
        start: int,
    ) -> tuple[_Array, _KeysValues]:
        name = f"layers.{layer}"
        length = len(states)
        normed = self._norm(f"{name}.input_layernorm", states)
        queries, keys, values = (
            (normed @ self._projection(f"{name}.self_attn.{part}_proj")).reshape(
                length, -1, self._head_dim
            )
            for part in "qkv"
        )
        queries, keys = self._turn(queries, start), self._turn(keys, start)
        if cache is not None:
            keys = np.concatenate([cache[0], keys])
            values = np.concatenate([cache[1], values])
        seen = np.arange(len(keys)) <= np.arange(start, start + length)[:, None]
        attended = self._attend(queries, keys, values, seen)
        states = states + attended @ self._projection(f"{name}.self_attn.o_proj")
        normed = self._norm(f"{name}.post_attention_layernorm", states)
        gate, up = (
            normed @ self._projection(f"{name}.mlp.{part}_proj")
            for part in ("gate", "up")
        )
        gated = gate / (1 + np.exp(-gate)) * up
        down = self._projection(f"{name}.mlp.down_proj")
        return states + gated @ down, (keys, values)

    def _attend(
        self,
        queries: _Array,
        keys: _Array,
        values: _Array,
        seen: NDArray[np.bool_],
    ) -> _Array:
        """Return ``[length, heads * head_dim]``."""
        # [kv_heads, shared, length, head_dim], and [kv_heads, 1, length, head_dim].
        shape = (len(queries), self._kv_heads, -1, self._head_dim)
        queries, keys, values = (
            part.reshape(len(part), *shape[1:]).transpose(1, 2, 0, 3)
            for part in (queries, keys, values)
        )
        scores = queries @ keys.swapaxes(-1, -2) / self._head_dim**0.5
        weights = np.exp(_log_softmax(np.where(seen, scores, -np.inf)))
        mixed = (weights @ values).transpose(2, 0, 1, 3)
        attended: _Array = mixed.reshape(len(mixed), -1)
        return attended

    def _turn(self, heads: _Array, start: int) -> _Array:
        """Apply the rotary positions to ``[length, heads, head_dim]``."""
        positions = slice(start, start + len(heads))
        first, second = np.split(heads, 2, axis=-1)
        turned = np.concatenate([-second, first], -1)
        rotated: _Array = heads * self._cos[positions] + turned * self._sin[positions]
        return rotated

    def _projection(self, name: str) -> _Array:
        """Return ``[inputs, outputs]``."""
        projection: _Array = self._weights[f"{name}.weight"].T
        return projection

    def _norm(self, name: str, states: _Array) -> _Array:
        mean = (states**2).mean(-1, keepdims=True)
        normed: _Array = (
            states / (mean + self._eps) ** 0.5 * self._weights[f"{name}.weight"]
        )
        return normed


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    kept[key] = value
    if len(kept) > limit:
        kept.popitem(last=False)


def _log_softmax(scores: _Array) -> _Array:
    shifted = scores - scores.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True)
    logprobs: _Array = shifted - np.log(total)
    return logprobs


# ------------------------------------------------------------------------ the sampling


def scores_after_rules(
    logits: _Array,
    request: EngineRequest,
    generated: Sequence[int],
    grammar: TokenGrammarState | None = None,
) -> _Array:
    """Return logits after masks, bias and penalties; ``-inf`` for forbidden tokens.

    Args:
        logits: ``[vocab]``, of the model; not changed.
        request: Its fields are applied.
        generated: Its new tokens so far.
        grammar: Its grammar after those, or `None`.
    """
    params = request.params
    scores: _Array = logits.copy()
    if grammar is not None:
        bits = np.frombuffer(grammar.allowed(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(scores)]
        scores[allowed == 0] = -np.inf
    if params.allowed_token_ids is not None:
        others = np.ones(len(scores), bool)
        others[list(params.allowed_token_ids)] = False
        scores[others] = -np.inf
    for *before, last in request.bad_words_token_ids:
        if list(generated[len(generated) - len(before) :]) == before:
            scores[last] = -np.inf
    if len(generated) < params.min_tokens:
        unstopped = scores.copy()
        unstopped[list(request.stop_token_ids)] = -np.inf
        if grammar is None or np.isfinite(unstopped).any():  # else it is complete
            scores = unstopped
    for token_id, bias in params.logit_bias.items():
        scores[token_id] += bias
    for token_id in {*request.prompt_token_ids, *generated}:
        factor = params.repetition_penalty
        scores[token_id] *= 1 / factor if scores[token_id] > 0 else factor
    for token_id in set(generated):
        count = list(generated).count(token_id)
        scores[token_id] -= params.frequency_penalty * count + params.presence_penalty
    return scores


def distribution(scores: _Array, params: SamplingParams) -> _Array:
    """Return ``[vocab]``: the probabilities of a draw, after temperature and filters.

    Args:
        scores: From `scores_after_rules`.
        params: The temperature is above 0.
    """
    weights = np.exp((scores - scores.max()) / params.temperature)
    weights[weights < params.min_p] = 0.0
    if 0 < params.top_k < len(weights):
        weights[scores < np.sort(scores)[-params.top_k]] = 0.0
    if params.top_p < 1:
        best = np.sort(weights)[::-1]
        before = best.cumsum() - best
        last = best[before < params.top_p * best.sum()][-1]
        weights[weights < last] = 0.0
    probabilities: _Array = weights / weights.sum()
    return probabilities


class ReferenceScript:
    """The model's tokens for a request: a pure function of the request.

    It draws random numbers in its own way, so a seeded request gets other tokens than
    on an engine; a greedy one gets the same.

    Args:
        model: `None` for the bundled one.
    """

    def __init__(self, model: ReferenceModel | None = None) -> None:
        self.model = model or ReferenceModel()
        # By identity: params have no hash. The request is kept, so its id is its own.
        self._tokens: OrderedDict[int, tuple[EngineRequest, list[SlotToken]]]
        self._tokens = OrderedDict()

    def __call__(self, request: EngineRequest, position: int) -> SlotToken:
        """Return the new token of *request* at *position*, counted from 0."""
        if id(request) not in self._tokens:
            _keep(self._tokens, id(request), (request, []), _KEPT_SEQUENCES)
        _, tokens = self._tokens[id(request)]
        while len(tokens) <= position:
            tokens.append(self._next(request, [token.token_id for token in tokens]))
        return tokens[position]

    def complete(self, request: EngineRequest) -> list[SlotToken]:
        """Return all tokens of *request*, with the one that ends it."""
        tokens: list[SlotToken] = []
        while len(tokens) < request.max_new_tokens:
            tokens.append(self(request, len(tokens)))
            if tokens[-1].error or tokens[-1].token_id in request.stop_token_ids:
                break
        return tokens

    def scores(self, request: EngineRequest, generated: Sequence[int]) -> _Array:
        """Return ``[vocab]``: the scores of the next token, after masks and penalties.

        Args:
            request: Its fields are applied.
            generated: Its new tokens so far.
        """
        grammar = None
        if request.grammar is not None:
            grammar = request.grammar.start()
            for token_id in generated:
                grammar.accept(token_id)
        logits = self.model.logits([*request.prompt_token_ids, *generated])
        return scores_after_rules(logits, request, generated, grammar)

    def probabilities(self, scores: _Array, params: SamplingParams) -> _Array:
        """Return ``[vocab]``: the probabilities of a draw; see `distribution`."""
        return distribution(scores, params)

    def number(self, seed: int, position: int) -> float:
        """Return the random number in 0..1 that draws a new token."""
        return random.Random(f"{seed} {position}").random()

    def prompt_logprobs(self, request: EngineRequest) -> list[TokenLogprobs] | None:
        """Return those of all prompt tokens but the first, if the request asked."""
        count = request.params.prompt_logprobs
        if count is None:
            return None
        ids = request.prompt_token_ids
        return [
            token_logprobs(self.model.logprobs(ids[:index]), ids[index], count)
            for index in range(1, len(ids))
        ]

    def _next(self, request: EngineRequest, generated: list[int]) -> SlotToken:
        params = request.params
        scores = self.scores(request, generated)
        if not np.isfinite(scores.max()):
            return SlotToken(
                -1,
                error=f"No token is allowed as new token {len(generated) + 1}: the "
                "request's fields forbid every token.",
            )
        if params.greedy:
            token_id = int(scores.argmax())
        else:
            number = self.number(request.seed, len(generated))
            sums = self.probabilities(scores, params).cumsum()
            token_id = int(np.searchsorted(sums, number * sums[-1], side="right"))
        asked = params.logprobs
        if asked is None:
            return SlotToken(token_id)
        logprobs = self.model.logprobs([*request.prompt_token_ids, *generated])
        return SlotToken(token_id, token_logprobs(logprobs, token_id, asked))


def token_logprobs(logprobs: _Array, token_id: int, count: int) -> TokenLogprobs:
    """Return the log-probabilities at one position.

    Args:
        logprobs: ``[vocab]``.
        token_id: The chosen token.
        count: Number of most probable tokens; -1 for all.
    """
    best = np.argsort(-logprobs, kind="stable")[: None if count < 0 else count]
    return TokenLogprobs(
        logprob=float(logprobs[token_id]),
        rank=int((logprobs >= logprobs[token_id]).sum()),
        top_ids=tuple(best.tolist()),
        top_logprobs=tuple(logprobs[best].tolist()),
    )
