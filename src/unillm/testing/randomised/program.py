# SPDX-License-Identifier: Apache-2.0

"""A failing session as a program, and `replay`, which the program calls."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from ...engines.base import Support
from ...structured_outputs import StructuredOutputs
from ...text.grammar import GrammarCompiler
from ..asking import bundled_asker
from ..subject import Subject
from .frequencies import ERROR_RATE, FEWEST_IN_BINS, Frequencies
from .jobs import Job
from .requests import changed_fields
from .trying import Target, Trial
from .twins import Twins

if TYPE_CHECKING:
    from ...engines.backend import Backend
    from ...engines.base import Capabilities

DRAWS = 3 * FEWEST_IN_BINS
"""Draws of a request whose frequencies are tested alone."""


def replay(
    backend: str | Backend,
    jobs: Sequence[Mapping[str, Any]],
    *,
    model: str = "unillm/tiny",
    options: Mapping[str, Any] = MappingProxyType({}),
    draws: int = 0,
) -> None:
    """Run requests on a backend and raise if the oracle finds a fault.

    Args:
        backend: Name of an installed backend, or a backend.
        jobs: For each request, keywords of `unillm.testing.asking.Asker`, and of `Job`.
        model: The bundled model, or the same one in another form.
        options: Options of the `Generator`.
        draws: Draw the first new token of the only request with so many seeds, and
            compare frequencies.

    Raises:
        AssertionError: An answer is wrong; the message says which and why.
    """
    target = Target(backend=backend, model=model, options=options)
    subject = Subject(target)
    with contextlib.closing(_Ending(subject)):
        made = [job_of(subject.capabilities, job) for job in jobs]
        trial = Trial(subject)
        if draws:
            uneven = uneven_draws(trial, made[0], draws)
            assert not uneven, uneven
            return
        tried = trial.try_session(made)
        assert tried.fault is None, tried.fault.message
        twins = Twins(bundled_asker().script.scores, spared=0)
        found = twins.fault_of(made, tried)
        assert found is None, found[0]


class _Ending:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def close(self) -> None:
        self._subject.end()


def uneven_draws(trial: Trial, job: Job, draws: int) -> str:
    """Draw a request's first token with many seeds; return what is uneven about it."""
    frequencies = Frequencies()
    counts: dict[int, int] = {}
    expected: Any = None
    for start in range(0, draws, 64):
        seeded = [_first_token(job, seed) for seed in range(start, start + 64)]
        tried = trial.try_session(seeded)
        if tried.fault is not None:
            return tried.fault.message
        for draw in tried.draws:
            frequencies.add(draw)
            counts[draw.token_id] = counts.get(draw.token_id, 0) + 1
            expected = draw.probabilities
    if frequencies.uneven(all_groups=True) is None:
        return ""
    total = sum(counts.values())
    likely = sorted(range(len(expected)), key=lambda each: -expected[each])[:8]
    rows = ", ".join(
        f"{each}: {counts.get(each, 0) / total:.3f} for {expected[each]:.3f}"
        for each in likely
        if expected[each] > 0
    )
    return (
        f"{total} draws of the first new token are not as frequent as the model's "
        f"probabilities after the request's rules, at an error rate of {ERROR_RATE:g}. "
        f"Share of each likely token: {rows}"
    )


def _first_token(job: Job, seed: int) -> Job:
    request = job.request
    params = attrs.evolve(request.params, seed=seed, max_tokens=1, min_tokens=0)
    change: dict[str, Any] = {"params": params, "seed": seed, "max_new_tokens": 1}
    return Job(
        request=attrs.evolve(request, request_id=f"draw-{seed}", **change),
        judged=attrs.evolve(job.judged, request_id=f"draw-{seed}", **change),
    )


def job_of(capabilities: Capabilities, fields: Mapping[str, Any]) -> Job:
    """Return the job that a program describes."""
    own = {attribute.name for attribute in attrs.fields(Job)} & fields.keys()
    ask = bundled_asker()
    request = ask(**{name: fields[name] for name in fields.keys() - own})
    judged = request
    wanted = request.params.structured_outputs
    if wanted is not None:
        compiler = GrammarCompiler(
            ask.tokenizer, vocab_size=ask.model.vocab_size, eos_ids=ask.eos_ids
        )
        judged = attrs.evolve(request, grammar=compiler.compile(wanted))
        if capabilities.of("structured_outputs").support is Support.EMULATED:
            request = judged
    return Job(request=request, judged=judged, **{name: fields[name] for name in own})


def program_of(
    backend: str,
    jobs: Sequence[Job],
    *,
    model: str,
    options: Mapping[str, Any],
    draws: int = 0,
) -> str:
    """Return a program that shows the fault of a session."""
    lines = [
        "from unillm.testing.randomised import replay",
        "",
        "replay(",
        f"    {backend!r},",
        "    [",
    ]
    for job in jobs:
        described = [f"            {n!r}: {value!r}," for n, value in _described(job)]
        lines += ["        {", *described, "        },"]
    lines.append("    ],")
    if model != "unillm/tiny":
        lines.append(f"    model={model!r},")
    shown = {name: value for name, value in options.items() if name != "tokenizer"}
    if shown:
        lines.append(f"    options={shown!r},")
    if draws:
        lines.append(f"    draws={draws},")
    return "\n".join([*lines, ")", ""])


def _described(job: Job) -> list[tuple[str, Any]]:
    """Return the keywords of a job that differ from their defaults."""
    request = job.request
    found: list[tuple[str, Any]] = [("prompt", list(request.prompt_token_ids))]
    found += [("max_tokens", request.max_new_tokens), ("seed", request.seed)]
    for name in changed_fields(request.params):
        if name not in ("max_tokens", "seed", "temperature"):
            found.append((name, _plain(getattr(request.params, name))))
    if not request.params.greedy:
        found.append(("temperature", request.params.temperature))
    if request.bad_words_token_ids:
        words = [list(word) for word in request.bad_words_token_ids]
        found.append(("bad_words_token_ids", words))
    if request.priority:
        found.append(("priority", request.priority))
    for name, default in (("joins", 0), ("abort_after", None), ("again", False)):
        if getattr(job, name) != default:
            found.append((name, getattr(job, name)))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, StructuredOutputs):
        return attrs.asdict(value, filter=lambda _, each: each not in (None, False))
    return value
