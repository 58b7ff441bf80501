# SPDX-License-Identifier: Apache-2.0

"""Samples: the observations of requests and of runs, as plain values."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen(kw_only=True)
class Sample:
    """One request of a run. Times are seconds from the start of the run."""

    token_ids: Sequence[int] | None = None
    """New ids; `None` where a server returns only a count."""
    reported_tokens: int = 0
    """New tokens that the engine or the server counted."""
    num_prompt_tokens: int | None = None
    """Tokens that the engine computed as the prompt; `None` where it does not say."""
    same_prompt: bool | None = None
    """Whether the engine's prompt ids are those that were sent."""
    num_cached_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    sent_s: float = 0.0
    first_s: float | None = None
    """When the first new token was there."""
    last_s: float | None = None
    """When the last new token was there."""
    gaps: Sequence[float] = ()
    """Seconds between successive tokens of a stream; a chunk of several tokens has one
    gap and zeros."""
    slot: int | None = None
    padding: int = 0
    """Padding positions that prefill computed."""
    decode_steps: int = 0


@attrs.frozen(kw_only=True)
class Run:
    """One round of a case on one side."""

    samples: Sequence[Sample]
    seconds: float
    """On the clock of the measured process."""
    whole_seconds: float = 0.0
    """On the clock of the measured process, from the line that asks to the answer."""
    outer_seconds: float = 0.0
    """The same on the clock of the process that asks, with the way of the lines."""
    client_cpu_s: float | None = None
    """Processor seconds of the process that sends over HTTP; `None` for an engine."""
    cpu_s: float = 0.0
    """Processor seconds of all the side's processes."""
    energy_j: float | None = None
    """Energy of the device; `None` where it has no meter."""
    clock_mhz: float | None = None
    """Clock of the device, at the end of the run."""
