# SPDX-License-Identifier: Apache-2.0

"""Random traffic for a scheduler: arrivals, lengths and aborts of scripted requests."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st

from unillm import SamplingParams
from unillm.engines.base import EngineRequest

END = 0
"""The EOS token id of scripted requests."""

PLAIN = SamplingParams()
SEEDED = SamplingParams(seed=1)


@attrs.frozen
class Job:
    """One request of the traffic, and its script."""

    number: int
    arrives_at: int = 0
    prompt_length: int = 4
    natural_length: int = 3
    """New tokens of its script, the last of which is `END`."""
    max_new_tokens: int = 100
    priority: int = 0
    aborted_at: int | None = None
    params: SamplingParams = PLAIN

    @property
    def request(self) -> EngineRequest:
        return EngineRequest(
            request_id=f"r{self.number}",
            prompt_token_ids=tuple(range(1, self.prompt_length + 1)),
            params=self.params,
            stop_token_ids=frozenset({END}),
            max_new_tokens=self.max_new_tokens,
            seed=self.number,
            priority=self.priority,
            arrival=self.number,
        )

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its new tokens if no abort ends it: a function of the job alone."""
        natural = [say(self.request, i) for i in range(self.natural_length - 1)]
        return (*natural, END)[: self.max_new_tokens]


def say(request: EngineRequest, position: int) -> int:
    """Return a token that depends on the request and the position."""
    return 1 + (request.seed * 1009 + position * 31) % 997


def script_of(jobs: list[Job]):
    lengths = {job.number: job.natural_length for job in jobs}

    def script(request: EngineRequest, position: int) -> int:
        if position == lengths[request.seed] - 1:
            return END
        return say(request, position)

    return script


@st.composite
def traffic(draw: st.DrawFn, max_jobs: int = 24) -> list[Job]:
    count = draw(st.integers(0, max_jobs))
    return [
        Job(
            number=number,
            arrives_at=draw(st.integers(0, 30)),
            prompt_length=draw(st.integers(1, 40)),
            natural_length=draw(st.integers(1, 20)),
            max_new_tokens=draw(st.integers(1, 20)),
            priority=draw(st.sampled_from([0, 0, 0, -1, 5])),
            aborted_at=draw(st.none() | st.integers(0, 60)),
            params=draw(st.sampled_from([PLAIN, SEEDED])),
        )
        for number in range(count)
    ]
