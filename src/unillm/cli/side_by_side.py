# SPDX-License-Identifier: Apache-2.0

"""What ``unillm compare`` shows: two sides, and the prompts on which they part."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import typer

from .prompts import CliPrompt

if TYPE_CHECKING:
    from ..comparison.sides import Side, SideReport
    from ..comparison.verdict import Comparison, Divergence, Gap
    from ..comparison.worker import Task


@attrs.frozen(kw_only=True, slots=False)  # for what is computed once
class SideBySide:
    """What was asked, and what the two sides said of it."""

    task: Task
    tolerance: float
    sides: tuple[Side, Side]
    reports: tuple[SideReport, SideReport]
    prompts: Sequence[CliPrompt]

    @functools.cached_property
    def comparisons(self) -> list[Comparison]:
        """One for each prompt."""
        from ..comparison.verdict import compare

        one, other = self.reports
        return [
            compare(index, *both, tolerance=self.tolerance)
            for index, both in enumerate(zip(one.answers, other.answers, strict=True))
        ]

    @property
    def agree(self) -> bool:
        """Whether the sides agree on every prompt."""
        return all(each.verdict.agrees for each in self.comparisons)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "agree": self.agree,
            "model": self.task.model,
            "max_tokens": self.task.max_tokens,
            "tolerance": self.tolerance,
            "verdicts": self._counts(),
            "sides": [
                {
                    "options": dict(side.options),
                    **attrs.asdict(report.ready),
                    **attrs.asdict(report.done),
                    "finish_reasons": _finish_reasons(report),
                }
                for side, report in zip(self.sides, self.reports, strict=True)
            ],
            "prompts": [
                {
                    **as_json_prompt(prompt),
                    "verdict": each.verdict.value,
                    "divergence": each.divergence and attrs.asdict(each.divergence),
                    "logprob_difference": each.logprob_difference,
                    "answers": [
                        attrs.asdict(answer, filter=attrs.filters.exclude("candidates"))
                        for answer in each.answers
                    ],
                }
                for prompt, each in zip(self.prompts, self.comparisons, strict=True)
            ],
        }

    def write(self) -> None:
        """Write it for a person: the sides, where they part, and whether they agree."""
        self._write_sides()
        for prompt, each in zip(self.prompts, self.comparisons, strict=True):
            if each.divergence is not None or not each.verdict.agrees:
                typer.echo(f"\n{_name(prompt)}: {each.verdict.value}")
                for line in _difference(each):
                    typer.echo(f"  {line}")
        typer.echo(f"\n{self._summary()}")
        for number, report in enumerate(self.reports, 1):
            if not report.done.repeats:
                typer.echo(f"side {number} gave other tokens when it was asked again")

    def _write_sides(self) -> None:
        from .tables import pairs_table, print_table

        reports = self.reports
        speeds = [each.done.num_tokens / each.done.seconds for each in reports]
        ratio = f" ({speeds[1] / speeds[0]:.2f}×)" if speeds[0] else ""
        rows = {
            "side": [f"{n}: {label(side)}" for n, side in enumerate(self.sides, 1)],
            "from": [each.ready.distribution for each in reports],
            "loaded in": [f"{each.ready.load_s:.1f} s" for each in reports],
            "context": [str(each.ready.max_model_len) for each in reports],
            "new tokens": [
                str(sum(len(answer.token_ids) for answer in each.answers))
                for each in reports
            ],
            "ended by": [
                ", ".join(f"{k} {v}" for k, v in _finish_reasons(each).items())
                for each in reports
            ],
            "tokens/s": [f"{speeds[0]:.0f}", f"{speeds[1]:.0f}{ratio}"],
        }
        table = pairs_table()
        table.add_column(overflow="fold")
        for name, cells in rows.items():
            table.add_row(name, *cells)
        print_table(table)

    def _counts(self) -> dict[str, int]:
        return dict(Counter(each.verdict.value for each in self.comparisons))

    def _summary(self) -> str:
        told = ", ".join(f"{count} {name}" for name, count in self._counts().items())
        differences = [
            each.logprob_difference
            for each in self.comparisons
            if each.logprob_difference is not None
        ]
        apart = (
            "; log-probabilities of equal tokens differ by at most "
            f"{max(differences):.4f}"
            if differences
            else ""
        )
        within = f" (tolerance {self.tolerance:g})" if self.tolerance else ""
        return f"{'agree' if self.agree else 'disagree'}{within}: {told}{apart}"


def label(side: Side) -> str:
    """Return a side in a few words."""
    told = {
        name: value
        for name, value in side.options.items()
        if name not in ("backend", "backend_options")
    }
    told |= side.options["backend_options"]
    backend = side.options.get("backend", "auto")
    options = ", ".join(f"{name}={value}" for name, value in told.items())
    return f"{backend} ({options})" if options else backend


def as_json_prompt(prompt: CliPrompt) -> dict[str, Any]:
    """Return a prompt as the generator of a side takes it."""
    if prompt.messages is not None:
        return {"messages": prompt.messages}
    if prompt.token_ids is not None:
        return {"prompt": prompt.text, "prompt_token_ids": prompt.token_ids}
    return {"prompt": prompt.text}


def _name(prompt: CliPrompt) -> str:
    return prompt.place if prompt.text is None else f"{prompt.place} ({prompt.text!r})"


def _finish_reasons(report: SideReport) -> dict[str, int]:
    return dict(
        Counter(answer.error or str(answer.finish_reason) for answer in report.answers)
    )


def _difference(each: Comparison) -> list[str]:
    if each.divergence is not None:
        return _divergence(each.divergence)
    return [
        f"side {number}: "
        + (
            f"{answer.error}: {answer.message}"
            if answer.error
            else f"{len(answer.prompt_token_ids)} prompt tokens, "
            f"{len(answer.token_ids)} new, {answer.finish_reason}, stop reason "
            f"{answer.stop_reason!r}, text {answer.text!r}"
        )
        for number, answer in enumerate(each.answers, 1)
    ]


def _divergence(found: Divergence) -> list[str]:
    lines = [f"at new token {found.position}:"]
    for number, (token_id, text, gap) in enumerate(
        zip(found.token_ids, found.texts, found.gaps, strict=True), 1
    ):
        shown = "" if text is None else f" {text!r}"
        lines.append(f"side {number}: {token_id}{shown}, {_gap(gap)}")
    return lines


def _gap(gap: Gap | None) -> str:
    if gap is None:
        return "no log-probabilities"
    at_least = "" if gap.is_exact else "at least "
    return f"{at_least}{gap.nats:.4f} nats over the other side's"
