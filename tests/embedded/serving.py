# SPDX-License-Identifier: Apache-2.0

"""Requests, the tokens that `generate` gives them, and an engine that serves them."""

from __future__ import annotations

import random
from pathlib import Path

import attrs
import torch
from embedded.tiny_models import CORE, POSITIONS, VOCAB, make_model

from unillm import SamplingParams
from unillm.embedded.engine import TransformersSlotEngine
from unillm.engines.base import EngineRequest
from unillm.engines.slots import PromptChunk, SlotEngine
from unillm.scheduling.slots import SlotScheduler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

NEAR_TIE = 1e-4
"""Two logits closer than this may change places with the shape of the batch (fp32)."""

CUDA_NEAR_TIE = 1e-3
"""The same on CUDA: the reference is the CPU's, and other kernels add in another order."""


def greedy_request(number: int, prompt, max_new_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=f"r{number}",
        prompt_token_ids=tuple(prompt),
        params=SamplingParams(temperature=0, max_tokens=None),
        stop_token_ids=frozenset(),
        max_new_tokens=max_new_tokens,
        seed=number,
        arrival=number,
    )


def whole_prompt(slot: int, request: EngineRequest) -> PromptChunk:
    end = len(request.prompt_token_ids)
    return PromptChunk(slot=slot, request=request, start=0, end=end)


def generate_alone(model, request: EngineRequest) -> tuple[int, ...]:
    ids = torch.tensor([request.prompt_token_ids])
    count = request.max_new_tokens
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    return tuple(output[0, ids.shape[1] :].tolist())


@attrs.frozen
class Known:
    """A request, and the tokens that `generate` gives to its prompt alone."""

    request: EngineRequest
    tokens: tuple[int, ...]


class Reference:
    """The models as transformers runs them, and known requests; each made once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._models = {}
        self._known = {}

    def model(self, variant: str):
        if variant not in self._models:
            self._models[variant] = make_model(variant)
        return self._models[variant]

    def path(self, variant: str):
        path = self._root / variant
        if not path.exists():
            self.model(variant).save_pretrained(path)
        return path

    def known(self, variant: str, count: int) -> list[Known]:
        known = self._known.setdefault(variant, [])
        rng = random.Random(f"{variant}{len(known)}")
        longest = 16 if variant in CORE else 9
        while len(known) < count:
            prompt = [rng.randrange(VOCAB) for _ in range(_random_length(rng))]
            request = greedy_request(len(known), prompt, rng.randint(1, longest))
            known.append(Known(request, generate_alone(self.model(variant), request)))
        return known[:count]

    def full_length(self, variant: str, prompt: tuple[int, ...]) -> Known:
        """Return a request that ends with the model's last position."""
        request = greedy_request(10_000, prompt, POSITIONS - len(prompt))
        return Known(request, generate_alone(self.model(variant), request))


def _random_length(rng: random.Random) -> int:
    """Return a length: often short, sometimes long, sometimes at the end of a block."""
    return rng.choice([rng.randint(1, 30), rng.randint(1, 200), 63, 64, 65])


def conversations(variant: str) -> list[EngineRequest]:
    """Return requests that share beginnings of three lengths, and some whole turns."""
    rng = random.Random(variant)
    stems = [[rng.randrange(VOCAB) for _ in range(n)] for n in (16, 63, 130)]
    prompts = [
        stems[rng.randrange(3)]
        + [rng.randrange(VOCAB) for _ in range(rng.randint(0, 40))]
        for _ in range(12)
    ]
    prompts += [prompts[0], prompts[0] + [5] * 7, prompts[1][:-1]]
    return [
        greedy_request(number, prompt, rng.randint(1, 9))
        for number, prompt in enumerate(prompts)
    ]


class PoisonedEngine(TransformersSlotEngine):
    """An engine whose free rows are full of NaN, from the start and after each call.

    A free row keeps the positions that a new prompt may take over.
    """

    def __init__(self, model, **options) -> None:
        super().__init__(model, **options)
        self._poison()

    def start(self, chunks, slots):
        results = super().start(chunks, slots)
        self._poison()
        return results

    def release(self, slot):
        super().release(slot)
        self._poison()

    def _poison(self) -> None:
        cache = self._cache
        for number, row in enumerate(self._rows.all):
            if not row.is_live:
                for tensor in cache.tensors:
                    tensor[number, :, row.length :] = torch.nan
                for tensor in cache.states:
                    tensor[number] = torch.nan
                cache.written[number] = cache.capacity


def serve(
    engine: SlotEngine,
    requests: list[EngineRequest],
    *,
    seed: int = 0,
    max_num_batched_tokens: int = 2048,
    scheduler: SlotScheduler | None = None,
) -> dict[str, tuple[int, ...]]:
    """Run all requests to their end; they arrive at random between the steps."""
    scheduler = scheduler or SlotScheduler(
        engine, max_num_batched_tokens=max_num_batched_tokens
    )
    rng = random.Random(seed)
    waiting = list(reversed(requests))
    tokens: dict[str, list[int]] = {each.request_id: [] for each in requests}
    while waiting or scheduler.has_unfinished():
        for _ in range(min(len(waiting), rng.choice([0, 0, 1, 1, 2, 9]))):
            scheduler.add_request(waiting.pop())
        for output in scheduler.step():
            assert output.error is None, output.error
            tokens[output.request_id] += output.token_ids
        scheduler.check()
    return {request_id: tuple(ids) for request_id, ids in tokens.items()}


def serve_known(
    engine: SlotEngine,
    reference: Reference,
    variant: str,
    count: int,
    *,
    budget: int = 2048,
    near_tie: float = NEAR_TIE,
) -> None:
    """Serve known requests, and assert that their tokens are those of `generate`."""
    known = reference.known(variant, count)

    got = serve(
        engine,
        [each.request for each in known],
        seed=engine.num_slots,
        max_num_batched_tokens=budget,
    )

    assert_same_tokens(reference.model(variant), known, got, near_tie=near_tie)


def assert_same_tokens(model, known, got, *, near_tie=NEAR_TIE) -> None:
    """Assert equal tokens but for near ties, which are printed with their gap."""
    for each in known:
        tokens = got[each.request.request_id]
        if tokens != each.tokens:
            gap = _gap_at_first_difference(model, each, tokens)
            print(f"near tie in {each.request.request_id}: {gap:.2e}")  # noqa: T201
            assert gap < near_tie, each.request.request_id


def _gap_at_first_difference(model, known: Known, got) -> float:
    """Return how far apart the two best logits are."""
    pairs = zip(known.tokens, got, strict=True)
    index = next(i for i, (one, other) in enumerate(pairs) if one != other)
    ids = torch.tensor([[*known.request.prompt_token_ids, *known.tokens[:index]]])
    with torch.inference_mode():
        best = model(ids).logits[0, -1].topk(2).values
    return (best[0] - best[1]).item()
