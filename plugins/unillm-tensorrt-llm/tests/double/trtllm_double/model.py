# SPDX-License-Identifier: Apache-2.0

"""The source of tokens: one sequence at a time on a small transformers model."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache


@functools.cache
def load(path: str, adapter: str | None = None):
    """Load a model and warm it up, as opening an engine does."""
    model = AutoModelForCausalLM.from_pretrained(
        Path(path), dtype=torch.float32, local_files_only=True
    ).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
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


class Sequence:
    """A prompt and its new tokens, a step at a time.

    Args:
        path: The model.
        prompt: Ids.
        sampling: Options of the request.
        end_id: The EOS token; -1 without one.
        sampler: Chooses each token.
        guide: Masks the logits of a guided request.
        adapter: Directory of a LoRA adapter.

    Attributes:
        prompt: Its ids.
        tokens: The new ids.
        raw: Logits of the last step, as log-probabilities read them (§4.5).
        generator: The random numbers of the next step.
        own_generator: Those of the request.
    """

    def __init__(
        self, path, prompt, sampling, *, end_id, sampler, guide=None, adapter=None
    ):
        self._path = str(path), adapter
        self._model = load(*self._path)
        self._guide = guide
        self._cache = DynamicCache(config=self._model.config)
        self._sampler = sampler
        self.prompt = list(prompt)
        self.sampling = sampling
        self.end_id = end_id
        self.tokens = []
        self.raw = None
        self.own_generator = self.generator = sampler.generator(sampling)

    @torch.inference_mode()
    def step(self):
        """Compute and return one more token."""
        logits = self._logits()
        if self._guide is not None:  # before all else, as a guided decoder does (§4.6)
            self._guide.mask(logits)
        token = self._sampler.choose(logits, self)
        self.tokens.append(token)
        if self._guide is not None:
            self._guide.accept(token)
        return token

    @torch.inference_mode()
    def prompt_logits(self):
        """Return the logits of the prompt, ``[length, vocabulary]``."""
        return self._model(input_ids=torch.tensor([self.prompt])).logits[0].float()

    def _logits(self):
        ids = (*self.prompt, *self.tokens)
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
