# SPDX-License-Identifier: Apache-2.0

"""The source of tokens: one sequence at a time on a small transformers model."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache


@functools.cache
def load(path: str):
    """Load a model and warm it up, as opening an engine does."""
    model = AutoModelForCausalLM.from_pretrained(
        Path(path), dtype=torch.float32, local_files_only=True
    ).eval()
    with torch.inference_mode():
        for length in (1, 16):
            model(input_ids=torch.zeros(1, length, dtype=torch.int64))
    return model


_KNOWN: dict[tuple, torch.Tensor] = {}
"""Logits by model and ids, because tests repeat the same prompts."""

_MOST_KNOWN = 50_000

STEP_S = 0.001
"""Least time of a step of a batch, so that a caller can act during a step, as with a
real engine, even where all logits are cached."""


class Sampling:
    """Sampling options of the runtime; `None` and 0 have TensorRT-LLM's meaning.

    Greedy by default; a seed of `None` is 0, the same in every run (§3).
    """

    def __init__(
        self,
        *,
        temperature=None,
        top_k=None,
        top_p=None,
        min_p=None,
        seed=None,
        repetition_penalty=None,
        presence_penalty=None,
        frequency_penalty=None,
        min_tokens=None,
        bias=None,
        banned=(),
    ):
        if top_k is not None and top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={top_k}")
        unset = temperature is None and top_k is None and top_p is None
        self.greedy = unset or top_k == 1 or top_p == 0.0 or temperature == 0
        self.temperature = 1.0 if temperature is None else temperature
        self.top_k = top_k or 0
        self.top_p = 1.0 if top_p is None else top_p
        self.min_p = min_p or 0.0
        self.generator = torch.Generator().manual_seed((seed or 0) % 2**63)
        self.repetition = repetition_penalty or 1.0
        self.presence = presence_penalty or 0.0
        self.frequency = frequency_penalty or 0.0
        self.min_tokens = min_tokens or 0
        self.bias = bias
        self.banned = list(banned)


class Sequence:
    """A prompt and its new tokens, a step at a time."""

    def __init__(self, path, prompt, sampling, *, end_id):
        self._path = str(path)
        self._model = load(self._path)
        self._cache = DynamicCache(config=self._model.config)
        self._prompt = list(prompt)
        self._sampling = sampling
        self._end_id = end_id
        self.tokens = []

    @torch.inference_mode()
    def step(self):
        """Compute and return one more token."""
        token = self._choose(self._logits())
        self.tokens.append(token)
        return token

    def _logits(self):
        ids = (*self._prompt, *self.tokens)
        if max(ids) >= self._model.config.vocab_size:
            raise RuntimeError("Token ID out of range")
        known = _KNOWN.get((self._path, ids))
        if known is None:
            new = ids[self._cache.get_seq_length() :]
            output = self._model(
                input_ids=torch.tensor([new]),
                past_key_values=self._cache,
                use_cache=True,
            )
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            known = _KNOWN[self._path, ids] = output.logits[0, -1].float()
        return known.clone()

    def _choose(self, logits):
        sampling = self._sampling
        if sampling.bias is not None:
            logits += sampling.bias
        if sampling.repetition != 1.0:
            seen = list({*self._prompt, *self.tokens})
            some, factor = logits[seen], sampling.repetition
            logits[seen] = torch.where(some > 0, some / factor, some * factor)
        counts = torch.bincount(
            torch.tensor(self.tokens, dtype=torch.int64), minlength=len(logits)
        )
        logits -= sampling.frequency * counts + sampling.presence * (counts > 0)
        logits[sampling.banned] = -torch.inf
        if len(self.tokens) < sampling.min_tokens and self._end_id is not None:
            logits[self._end_id] = -torch.inf  # the EOS token alone, no stop words
        if sampling.greedy:
            return int(logits.argmax())
        logits /= sampling.temperature
        if sampling.top_k:
            lowest = logits.topk(min(sampling.top_k, len(logits))).values[-1]
            logits[logits < lowest] = -torch.inf
        probabilities = logits.softmax(0)
        if sampling.top_p < 1.0:
            ordered, order = probabilities.sort(descending=True)
            drop = ordered.cumsum(0) - ordered >= sampling.top_p
            probabilities[order[drop]] = 0.0
        if self._sampling.min_p:
            probabilities[probabilities < sampling.min_p * probabilities.max()] = 0.0
        return int(torch.multinomial(probabilities, 1, generator=sampling.generator))
