# SPDX-License-Identifier: Apache-2.0

"""The sampler against a slow reference in plain Python, one row at a time."""

from __future__ import annotations

import math
import random

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling.slow_noise import ring_time

from unillm import SamplingParams
from unillm.engines.base import EngineRequest
from unillm.sampling.logprobs import LOGPROBS_MODES
from unillm.sampling.request_sampler import RequestSampler
from unillm.sampling.sampler import Sampler

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCAB = 23


class DeviceSampler(Sampler):
    """A sampler on the device that an engine would use."""

    def __init__(self, *, num_slots: int, vocab_size: int = VOCAB, **options) -> None:
        super().__init__(
            num_slots=num_slots, vocab_size=vocab_size, device=DEVICE, **options
        )

    def sample(self, logits, slots, **known):
        return super().sample(logits.to(DEVICE), slots, **known)


def request(
    seed=0, *, prompt=(1, 2, 3), stop=(), bad_words=(), **params
) -> EngineRequest:
    return EngineRequest(
        request_id=f"r{seed}",
        prompt_token_ids=tuple(prompt),
        params=SamplingParams(max_tokens=None, **params),
        stop_token_ids=frozenset(stop),
        max_new_tokens=1000,
        seed=seed,
        bad_words_token_ids=bad_words,
    )


def sampler_for(*requests: EngineRequest, **options) -> Sampler:
    sampler = DeviceSampler(num_slots=len(requests), **options)
    for slot, each in enumerate(requests):
        sampler.assign(slot, each)
    return sampler


# ------------------------------------------------------------------- the slow reference


@attrs.define
class Reference:
    """One request, token by token in float64, from the definitions of the fields."""

    request: EngineRequest
    mode: str = "raw_logprobs"
    generated: list[int] = attrs.field(factory=list)

    def step(self, logits: np.ndarray) -> tuple[int, tuple | None]:
        raw = logits.astype(np.float64)
        scores = self.penalised(self.masked(raw))
        token = int(np.argmax(scores))
        if not self.request.params.greedy:
            weights = self.filtered(scores)
            token = self.drawn(weights)
            scores = scores / self.request.params.temperature
            scores[weights == 0] = -math.inf
        logprobs = self.logprobs(raw if self.mode.startswith("raw") else scores, token)
        self.generated.append(token)
        return token, logprobs

    def masked(self, scores):
        scores = scores.copy()
        params = self.request.params
        for token in range(len(scores)):
            if token not in (params.allowed_token_ids or range(len(scores))):
                scores[token] = -math.inf
        for word in self.request.bad_words_token_ids:
            if (*self.generated, word[-1])[-len(word) :] == word:
                scores[word[-1]] = -math.inf
        if len(self.generated) < self.request.params.min_tokens:
            for token in self.request.stop_token_ids:
                scores[token] = -math.inf
        for token, bias in params.logit_bias.items():
            scores[token] += bias
        return scores

    def penalised(self, scores):
        params = self.request.params
        scores = scores.copy()
        for token in range(len(scores)):
            count = self.generated.count(token)
            if count or token in self.request.prompt_token_ids:
                penalty = params.repetition_penalty
                scores[token] *= 1 / penalty if scores[token] > 0 else penalty
            scores[token] -= params.frequency_penalty * count
            scores[token] -= params.presence_penalty * (count > 0)
        return scores

    def filtered(self, scores):
        params = self.request.params
        weights = np.exp((scores - scores.max()) / params.temperature)
        weights[weights < params.min_p * weights.max()] = 0
        if 0 < params.top_k < len(scores):
            weights[scores < np.sort(scores)[-params.top_k]] = 0
        if params.top_p < 1:
            betters, cutoff = 0.0, None
            for weight in sorted(weights, reverse=True):
                if betters >= params.top_p * weights.sum():
                    break
                betters, cutoff = betters + weight, weight
            weights[weights < cutoff] = 0
        return weights

    def drawn(self, weights):
        draw = self.request.seed, len(self.generated)
        times = [ring_time(*draw, token) for token in range(len(weights))]
        with np.errstate(divide="ignore"):
            return int(np.argmin(np.array(times) / weights))

    def logprobs(self, scores, token):
        count = self.request.params.logprobs
        if count is None:
            return None
        values = scores
        if self.mode.endswith("logprobs"):
            values = scores - scores.max()
            values = values - np.log(np.exp(values).sum())
        best = sorted(range(len(scores)), key=lambda i: -values[i])
        best = best if count == -1 else best[:count]
        rank = int((scores >= scores[token]).sum())
        return values[token], rank, best, [values[i] for i in best]


def mixed_requests(count: int, seed: int) -> list[EngineRequest]:
    """Return requests that use all fields together, each some of them."""
    rng = random.Random(seed)

    def maybe(value, off):
        return value if rng.random() < 0.4 else off

    return [
        request(
            rng.randrange(-(2**63), 2**63),
            prompt=[rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))],
            stop=rng.sample(range(VOCAB), rng.randint(0, 3)),
            temperature=maybe(0.0, rng.choice([0.2, 0.7, 1.0, 1.9])),
            min_tokens=maybe(rng.randint(1, 6), 0),
            repetition_penalty=maybe(rng.choice([0.5, 1.3, 4.0]), 1.0),
            frequency_penalty=maybe(rng.choice([-1.5, 0.4, 2.0]), 0.0),
            presence_penalty=maybe(rng.choice([-0.7, 0.9]), 0.0),
            top_k=maybe(rng.choice([1, 3, 8, 500]), 0),
            top_p=maybe(rng.choice([0.1, 0.6, 0.95]), 1.0),
            min_p=maybe(rng.choice([0.05, 0.5]), 0.0),
            logprobs=maybe(rng.choice([0, 1, 5, -1]), None),
            logit_bias=maybe({rng.randrange(VOCAB): rng.uniform(-9, 9)}, None),
            allowed_token_ids=maybe(rng.sample(range(VOCAB), 12), None),
            bad_words=maybe(
                tuple(
                    tuple(rng.choices(range(VOCAB), k=rng.choice([1, 1, 2])))
                    for _ in range(5)
                ),
                (),
            ),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_all_fields_in_one_batch_match_the_slow_reference(seed):
    requests = mixed_requests(12, seed)
    mode = LOGPROBS_MODES[seed % 4]
    sampler = sampler_for(*requests, logprobs_mode=mode)
    references = [Reference(each, mode) for each in requests]
    generator = torch.Generator().manual_seed(seed)

    for _ in range(15):
        logits = torch.randn(12, VOCAB, generator=generator) * 3
        got = sampler.sample(logits, range(12))
        for row, token, reference in zip(logits.numpy(), got, references, strict=True):
            expected, logprobs = reference.step(row)
            assert token.error is None
            assert token.token_id == expected
            assert_same_logprobs(token.logprobs, logprobs)


def assert_same_logprobs(got, expected):
    if expected is None:
        assert got is None
        return
    logprob, rank, top_ids, top_logprobs = expected
    assert got.logprob == pytest.approx(logprob, abs=1e-5)
    assert got.rank == rank
    finite = sum(each > -math.inf for each in top_logprobs)  # the rest has no order
    assert list(got.top_ids)[:finite] == top_ids[:finite]
    assert list(got.top_logprobs) == pytest.approx(top_logprobs, abs=1e-5)


# ------------------------------------------------------------- rows are independent


@pytest.mark.property
@given(st.data())
def test_tokens_do_not_depend_on_slots_or_other_rows(data):
    requests = mixed_requests(8, data.draw(st.integers(0, 50)))
    logits = torch.randn(6, 8, VOCAB, generator=torch.Generator().manual_seed(1)) * 3
    together = sampler_for(*requests)
    expected = [together.sample(step, range(8)) for step in logits]
    order = data.draw(st.permutations(range(8)))
    chosen = order[: data.draw(st.integers(1, 8))]
    other = DeviceSampler(num_slots=10)
    for slot, each in enumerate(chosen):
        other.assign(slot + 2, requests[each])

    for step, tokens in zip(logits, expected, strict=True):
        got = other.sample(step[chosen], range(2, 2 + len(chosen)))
        assert got == [tokens[each] for each in chosen]


def test_a_request_continues_in_another_slot_with_the_same_tokens():
    wanted = request(7, frequency_penalty=0.8, repetition_penalty=1.2, min_tokens=9)
    logits = torch.randn(10, 1, VOCAB, generator=torch.Generator().manual_seed(2))
    stayed = sampler_for(wanted)
    tokens = [stayed.sample(step, [0])[0].token_id for step in logits]
    moved = DeviceSampler(num_slots=3)

    moved.assign(2, wanted, generated=tokens[:4])

    assert tokens[4:] == [moved.sample(step, [2])[0].token_id for step in logits[4:]]


def test_a_released_slot_keeps_nothing_of_its_request():
    sampler = sampler_for(request(1, repetition_penalty=9.0, presence_penalty=2.0))
    logits = torch.randn(1, VOCAB)
    for _ in range(20):
        sampler.sample(logits, [0])

    sampler.release(0)

    heavy = request(2, prompt=[4], repetition_penalty=9.0, temperature=0)
    sampler.assign(0, heavy)
    assert sampler.sample(logits, [0]) == sampler_for(heavy).sample(logits, [0])
    sampler.release(0)
    assert not sampler._rows
    assert not sampler._penalties._in_prompt.any()
    assert not sampler._penalties._generated.any()


def test_a_bad_word_is_masked_only_where_it_would_be_completed():
    sampler = sampler_for(request(temperature=0, bad_words=((5, 6, 7), (9,))))
    steps = []
    for best, second in ((9, 5), (6, 1), (7, 2), (7, 3)):
        logits = torch.zeros(1, VOCAB)
        logits[0, best], logits[0, second] = 9.0, 5.0
        steps.append(sampler.sample(logits, [0])[0].token_id)

    assert steps == [5, 6, 2, 7]


@attrs.define
class Ended:
    """A grammar after its last token: only id 5 may follow."""

    error: str = ""

    def allowed(self) -> bytes:
        return (1 << 5).to_bytes(4, "little")

    def accept(self, token_id) -> None:
        assert token_id == 5


@attrs.define
class Grammar:
    start = Ended


def test_a_complete_structure_ends_before_min_tokens():
    """vLLM lets it end too."""
    ended = attrs.evolve(
        request(temperature=0, stop=[3, 5], min_tokens=8), grammar=Grammar()
    )
    sampler = sampler_for(ended, request(temperature=0, stop=[0], min_tokens=8))

    logits = torch.arange(VOCAB, 0, -1.0)

    first, second = sampler.sample(logits.repeat(2, 1), [0, 1])

    assert (first.token_id, second.token_id) == (5, 1)
    assert RequestSampler(ended).next(logits.numpy()).token_id == 5


def test_a_request_that_forbids_every_token_fails_alone():
    requests = [
        request(1, temperature=0, allowed_token_ids=[4], bad_words=((4,),)),
        request(2, temperature=0),
        request(3, allowed_token_ids=[4]),
    ]

    tokens = sampler_for(*requests).sample(torch.randn(3, VOCAB), range(3))

    assert "forbid every token" in tokens[0].error
    assert (tokens[1].error, tokens[2].token_id) == (None, 4)


def test_counts_are_allocated_for_penalties_alone():
    sampler = sampler_for(request(1), request(2, temperature=0, logprobs=3))

    sampler.sample(torch.randn(2, VOCAB), [0, 1])

    assert sampler._penalties._generated is None


def test_the_logits_are_not_changed():
    requests = mixed_requests(12, 3)
    logits = torch.randn(12, VOCAB)
    before = logits.clone()

    sampler_for(*requests).sample(logits, range(12))

    assert torch.equal(logits, before)


# --------------------------------------------------------------------- distributions


def chi_square(counts: list[int], probabilities: list[float]) -> float:
    total = sum(counts)
    return sum(
        (count - total * p) ** 2 / (total * p)
        for count, p in zip(counts, probabilities, strict=True)
    )


def test_draws_follow_the_softmax_at_the_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 1.5, -0.5, 0.0])
    draws = 20_000
    sampler = sampler_for(
        *[request(s, temperature=0.8) for s in range(200)], vocab_size=8
    )

    counts = [0] * 8
    for _ in range(draws // 200):
        for token in sampler.sample(logits.expand(200, -1), range(200)):
            counts[token.token_id] += 1

    # 7 degrees of freedom: under 24.3 with probability 0.999.
    assert chi_square(counts, (logits / 0.8).softmax(-1).tolist()) < 24.3


def test_draws_of_one_request_follow_the_filtered_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5, 1.5, -0.5, 0.0]])
    sampler = sampler_for(request(5, top_k=4, top_p=0.99), vocab_size=8)

    counts = [0] * 8
    for _ in range(4000):
        counts[sampler.sample(logits, [0])[0].token_id] += 1

    kept = [0, 1, 4, 5]
    assert sum(counts) == sum(counts[i] for i in kept)
    expected = logits[0, kept].softmax(-1).tolist()
    # 3 degrees of freedom: under 16.3 with probability 0.999.
    assert chi_square([counts[i] for i in kept], expected) < 16.3


def test_ten_thousand_requests_draw_the_same_beside_others_as_alone():
    """Batches round the logits in another way, by 1e-6 on a model in float32."""
    vocab_size, rows = 4096, 500
    generator = torch.Generator().manual_seed(4)
    differ = 0
    for first in range(0, 10_000, rows):
        sampler, beside = (
            sampler_for(
                *[request(first + n, temperature=0.6) for n in range(rows)],
                vocab_size=vocab_size,
            )
            for _ in range(2)
        )
        logits = torch.randn(rows, vocab_size, generator=generator) / 2
        rounding = torch.randn(rows, vocab_size, generator=generator) * 1e-6

        alone = sampler.sample(logits, range(rows))
        others = beside.sample(logits + rounding, range(rows))

        differ += sum(a != b for a, b in zip(alone, others, strict=True))

    assert differ == 0


def test_seeds_repeat_and_differ():
    logits = torch.randn(30, 1, VOCAB, generator=torch.Generator().manual_seed(3))

    def tokens(seed):
        sampler = sampler_for(request(seed))
        return [sampler.sample(step, [0])[0].token_id for step in logits]

    assert tokens(11) == tokens(11)
    assert tokens(11) != tokens(12)
    assert tokens(-11) == tokens(2**64 - 11)


# -------------------------------------------------------------------- greedy and types


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_takes_the_first_of_equal_logits(dtype):
    logits = torch.zeros(2, VOCAB, dtype=dtype)
    logits[0, 5] = logits[0, 9] = 3.0
    logits[1, 0] = -1.0
    fast = sampler_for(*[request(i, temperature=0) for i in range(2)])
    slow = sampler_for(*[request(i, temperature=0, logprobs=0) for i in range(2)])

    assert [t.token_id for t in fast.sample(logits, [0, 1])] == [5, 1]
    assert [t.token_id for t in slow.sample(logits, [0, 1])] == [5, 1]


def test_eos_tokens_beyond_the_vocabulary_are_ignored():
    sampler = sampler_for(request(temperature=0, min_tokens=2, stop=[4, VOCAB + 3]))
    logits = torch.zeros(1, VOCAB)
    logits[0, 4] = 9.0

    ids = [sampler.sample(logits, [0])[0].token_id for _ in range(3)]

    assert ids == [0, 0, 4]


def test_logprobs_of_the_whole_vocabulary_concern_one_row():
    sampler = sampler_for(
        request(temperature=0, logprobs=-1), request(temperature=0, logprobs=2)
    )

    everything, two = sampler.sample(torch.randn(2, VOCAB), [0, 1])

    assert sorted(everything.logprobs.top_ids) == list(range(VOCAB))
    assert sum(math.exp(x) for x in everything.logprobs.top_logprobs) == pytest.approx(
        1
    )
    assert len(two.logprobs.top_ids) == 2
    assert two.logprobs.rank == 1


def test_a_rank_counts_equally_probable_tokens():
    """vLLM counts them too."""
    sampler = sampler_for(request(temperature=0, logprobs=0))

    (token,) = sampler.sample(torch.tensor([[1.0, 1.0, 0.0, 1.0]]), [0])

    assert (token.token_id, token.logprobs.rank) == (0, 3)


def test_without_filters_a_token_of_no_weight_has_its_score():
    """float32 has no such probability, and nothing dropped the token."""
    sampler = sampler_for(
        request(logprobs=-1), vocab_size=3, logprobs_mode="processed_logits"
    )

    [token] = sampler.sample(torch.tensor([[500.0, 0.0, -500.0]]), [0])

    assert token.logprobs.top_logprobs == (500.0, 0.0, -500.0)


# ---------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {},
        {"top_p": 0.5, "top_k": 3, "min_p": 0.1, "logprobs": 4},
        {"temperature": 0, "repetition_penalty": 1.5},
    ],
    ids=["greedy", "sampled", "filtered", "penalised"],
)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row.__setitem__(7, math.nan),
        lambda row: row.__setitem__(7, math.inf),
        lambda row: row.fill_(-math.inf),
        lambda row: row.fill_(math.nan),
    ],
    ids=["one nan", "one inf", "all -inf", "all nan"],
)
def test_non_finite_logits_fail_their_row_alone(params, spoil):
    requests = [request(i, **params) for i in range(3)]
    logits = torch.randn(3, VOCAB)
    expected = sampler_for(*requests).sample(logits, range(3))
    spoil(logits[1])

    got = sampler_for(*requests).sample(logits, range(3))

    assert "not finite" in got[1].error
    assert [got[0], got[2]] == [expected[0], expected[2]]


def test_an_infinite_logit_that_is_masked_is_still_an_error():
    sampler = sampler_for(request(temperature=0, min_tokens=1, stop=[4]))
    logits = torch.zeros(1, VOCAB)
    logits[0, 4] = math.inf

    assert "not finite" in sampler.sample(logits, [0])[0].error


def test_a_logit_of_minus_infinity_is_never_drawn():
    requests = [request(i, top_p=0.999, temperature=2.0) for i in range(50)]
    logits = torch.full((50, VOCAB), -math.inf)
    logits[:, [3, 8]] = 0.0

    tokens = sampler_for(*requests).sample(logits, range(50))

    assert {token.token_id for token in tokens} == {3, 8}


def test_masking_every_token_is_an_error():
    sampler = sampler_for(request(min_tokens=1, stop=range(VOCAB)))

    assert "not finite" in sampler.sample(torch.zeros(1, VOCAB), [0])[0].error


def test_large_logits_and_small_temperatures_do_not_overflow():
    sampler = sampler_for(request(temperature=0.01), request(temperature=1.0))
    logits = torch.zeros(2, VOCAB)
    logits[:, 6] = 3e38

    assert [t.token_id for t in sampler.sample(logits, [0, 1])] == [6, 6]


def test_a_held_slot_is_not_assigned_again():
    sampler = sampler_for(request())

    with pytest.raises(AssertionError, match="held slot"):
        sampler.assign(0, request(1))
