# SPDX-License-Identifier: Apache-2.0

"""The samplers: the C++ decoder, and ``TorchSampler`` as each version has it (§4)."""

from __future__ import annotations

import dataclasses
import logging
import zlib

import torch

from . import calls
from .profiles import current

LARGEST_TOP_K = 1024
"""C++ kernels clip a larger one with a warning (``samplingTopKKernels.h``; §3)."""

log = logging.getLogger("tensorrt_llm")


@dataclasses.dataclass(kw_only=True)
class Sampling:
    """Options of a request; the defaults are neutral."""

    greedy: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    prompt_ignore_length: int | None = None
    min_tokens: int | None = None
    bias: torch.Tensor | None = None
    bad_words: list[list[int]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, values):
        """Take the options of ``SamplingParams`` that this version has."""
        given = {
            each.name: getattr(values, each.name)
            for each in dataclasses.fields(cls)
            if hasattr(values, each.name)
        }
        banned = getattr(values, "bad_token_ids", None) or ()
        given["bad_words"] = [[token_id] for token_id in banned]
        return cls(**given, bias=values.embedding_bias)


class CppSampler:
    """The decoder of engines, of both runners and of ``TRTLLMSampler`` (§4.3, §4.4).

    Bias, temperature, then repetition, presence and frequency penalties, which count
    the prompt (``penaltyKernels.cu``). Words of several ids may begin in the prompt
    (``banBadWords.cu``), and ``min_tokens`` holds back the EOS token alone. A request
    has its own random numbers, seeded with 0 unless it sets a seed.
    """

    shows_end_id = False
    """It is hidden and not counted (``samplingTopKKernels.cu``; §2.4)."""
    length_before_stop_words = False
    """Open; the order of `TorchSampler` was read."""

    def begin_round(self, sequences):
        """Do nothing: no request depends on the others."""

    def generator(self, sampling):
        return _generator(sampling.seed or 0)

    def choose(self, logits, sequence) -> int:
        sampling = sequence.sampling
        _add_bias(logits, sampling)
        if not sampling.greedy:
            logits /= sampling.temperature or 1.0
        _penalise(logits, sequence, ignored=0)
        _ban(logits, sequence)
        if len(sequence.tokens) < (sampling.min_tokens or 0):
            _ban_end_id(logits, sequence)
        sequence.raw = logits.clone()
        if sampling.greedy:
            return int(logits.argmax())
        top_k = sampling.top_k or 0
        if top_k > LARGEST_TOP_K:
            calls.note("clipped", top_k=top_k)
            log.warning("TopK (%d) is larger than max supported (1024)", top_k)
            top_k = LARGEST_TOP_K
        return _draw(logits, sampling, top_k, sampling.min_p, sequence.generator)


class TorchSampler:
    """``_torch/pyexecutor/sampler``: what it does not honour, it ignores (§4.2).

    Args:
        profile: The version.
        speculates: Whether the model has a speculation.
        mixed: ``enable_mixed_sampler`` of 1.0: top-p wins over top-k, and temperature
            is ignored.
        greedy_only: A one-model speculation without ``allow_advanced_sampling`` (§7).
    """

    shows_end_id = True
    """The token is appended, then compared (§2.4)."""
    length_before_stop_words = True
    """A stop id as the last token allowed ends by length (§2.4)."""

    def __init__(self, profile, *, mixed=False, speculates=False, greedy_only=False):
        self._shares = speculates and profile.shares_random_numbers
        self._honours = profile.honours
        self._min_tokens = profile.min_tokens
        self._by_first_row = profile.seeds == "first row"
        self._mixed = mixed
        self._greedy_only = greedy_only
        self._random = torch.Generator().manual_seed(42)

    def begin_round(self, sequences):
        """Give all rows of a batch the random numbers of the first one.

        FlashInfer reads the first row's seed only (``seed_manager.py``; PR #17172).
        With speculation all rows draw the same ones (issue #19487).
        """
        if self._shares:
            torch.rand(1, generator=self._random)
            state = self._random.get_state()
            for each in sequences:
                each.generator = torch.Generator()
                each.generator.set_state(state)
            return
        if self._by_first_row and sequences:
            for each in sequences:
                each.generator = sequences[0].own_generator

    def generator(self, sampling):
        """Return a request's generator: that of the process, up to 1.4 (§4.2)."""
        if not self._by_first_row:
            return self._random
        seed = sampling.seed
        if seed is None:
            seed = int(torch.randint(2**62, (1,), generator=self._random))
        return _generator(seed)

    def choose(self, logits, sequence) -> int:
        sampling = sequence.sampling
        if "bias" in self._honours:
            _add_bias(logits, sampling)
        if "bans" in self._honours:
            _ban(logits, sequence)
        counted = len(sequence.tokens)
        if self._min_tokens == "with prompt":  # a bug of 1.2 (§4.2)
            counted += len(sequence.prompt)
        if self._min_tokens != "ignored" and counted < (sampling.min_tokens or 0):
            _ban_end_id(logits, sequence)
        if "penalties" in self._honours:
            _penalise(logits, sequence, ignored=sampling.prompt_ignore_length or 0)
        sequence.raw = logits.clone()  # before temperature and filters alone (§4.5)
        if sampling.greedy or self._greedy_only:
            return int(logits.argmax())
        if self._mixed:
            top_k = 0 if sampling.top_p is not None else sampling.top_k or 0
            return _draw(logits, sampling, top_k, None, sequence.generator)
        if "choice" not in self._honours:
            return int(logits.argmax())
        logits /= sampling.temperature or 1.0
        min_p = sampling.min_p if "min_p" in self._honours else None
        return _draw(logits, sampling, sampling.top_k or 0, min_p, sequence.generator)


def _generator(seed):
    """Return random numbers that depend on all bits, as cuRAND's do.

    torch's own on the CPU take the lowest 32.
    """
    mixed = zlib.crc32((seed % 2**64).to_bytes(8, "little"))
    return torch.Generator().manual_seed(mixed)


def make_utils_sampling_params():
    """Make what the sampler of PyTorch reads of a request, from 1.2 on (§4.2)."""
    fields = ["temperature", "top_p", "top_k", "use_beam_search"]
    if "min_p" in current().honours:
        fields.append("min_p")
    return dataclasses.make_dataclass(
        "UtilsSamplingParams", fields, frozen=True, kw_only=True
    )


def _add_bias(logits, sampling):
    if sampling.bias is not None:
        logits += sampling.bias


def _penalise(logits, sequence, *, ignored):
    """Penalise ids of the prompt too, *ignored* of them excepted (§4.3).

    The repetition penalty always sees all ids.
    """
    sampling = sequence.sampling
    factor = sampling.repetition_penalty or 1.0
    if factor != 1.0:
        seen = sorted({*sequence.prompt, *sequence.tokens})
        some = logits[seen]
        logits[seen] = torch.where(some > 0, some / factor, some * factor)
    counts = torch.bincount(
        torch.tensor([*sequence.prompt[ignored:], *sequence.tokens], dtype=torch.int64),
        minlength=len(logits),
    )
    logits -= (sampling.presence_penalty or 0.0) * (counts > 0)
    logits -= (sampling.frequency_penalty or 0.0) * counts


def _ban(logits, sequence):
    ids = [*sequence.prompt, *sequence.tokens]
    for word in sequence.sampling.bad_words:
        before = len(word) - 1
        if before == 0 or ids[-before:] == list(word[:-1]):
            logits[word[-1]] = -torch.inf


def _ban_end_id(logits, sequence):
    """Hold back the EOS token, and no stop word (§3)."""
    if sequence.end_id not in (None, -1):
        logits[sequence.end_id] = -torch.inf


def _draw(logits, sampling, top_k, min_p, generator) -> int:
    if top_k:
        lowest = logits.topk(min(top_k, len(logits))).values[-1]
        logits[logits < lowest] = -torch.inf
    probabilities = logits.softmax(0)
    top_p = 1.0 if sampling.top_p is None else sampling.top_p
    if top_p < 1.0:
        ordered, order = probabilities.sort(descending=True)
        drop = ordered.cumsum(0) - ordered >= top_p
        probabilities[order[drop]] = 0.0
    if min_p:
        probabilities[probabilities < min_p * probabilities.max()] = 0.0
    return int(torch.multinomial(probabilities, 1, generator=generator))
