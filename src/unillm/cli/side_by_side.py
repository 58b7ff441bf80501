# SPDX-License-Identifier: Apache-2.0

"""The report of ``unillm compare``: both sides, and the prompts where they diverge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import typer

from .prompts import CliPrompt

if TYPE_CHECKING:
    from ..comparison.sides import Side, SideReport
    from ..comparison.verdict import Comparison, Divergence, Gap
    from ..comparison.worker import Task


@attrs.frozen(kw_only=True)
class SideBySide:
    """The task, the reports of the two sides, and a comparison for each prompt."""

    task: Task
    tolerance: float
    sides: Sequence[Side]
    reports: Sequence[SideReport]
    prompts: Sequence[CliPrompt]
    comparisons: Sequence[Comparison]

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
                    "options": side.options,
                    **attrs.asdict(report.ready),
                    **attrs.asdict(report.done),
                    "finish_reasons": _finish_reasons(report),
                }
                for side, report in zip(self.sides, self.reports, strict=True)
            ],
            "prompts": [
                {
                    **prompt.as_input(),
                    "verdict": each.verdict,
                    "divergence": each.divergence,
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
        """Write a table of the sides, the differences, and whether the sides agree."""
        from .tables import pairs_table, print_table

        print_table(pairs_table(*self._rows()))
        for prompt, each in zip(self.prompts, self.comparisons, strict=True):
            if each.divergence is not None or not each.verdict.agrees:
                text = "" if prompt.text is None else f" ({prompt.text!r})"
                typer.echo(f"\n{prompt.place}{text}: {each.verdict.value}")
                for line in _difference(each):
                    typer.echo(f"  {line}")
        typer.echo(f"\n{self._summary()}")
        for number, report in enumerate(self.reports, 1):
            if not report.done.repeats:
                typer.echo(f"side {number} gave other tokens in the second pass")

    def _rows(self) -> Iterator[tuple[str, ...]]:
        reports = self.reports
        speeds = [each.done.num_tokens / each.done.seconds for each in reports]
        ratio = f" ({speeds[1] / speeds[0]:.2f}×)" if speeds[0] else ""
        yield (
            "side",
            *(f"{n}: {label(side.options)}" for n, side in enumerate(self.sides, 1)),
        )
        yield "from", *(each.ready.distribution for each in reports)
        yield "loaded in", *(f"{each.ready.load_s:.1f} s" for each in reports)
        yield "context", *(str(each.ready.max_model_len) for each in reports)
        yield (
            "new tokens",
            *(str(sum(len(a.token_ids) for a in each.answers)) for each in reports),
        )
        yield (
            "ended by",
            *(
                ", ".join(f"{k} {v}" for k, v in _finish_reasons(each).items())
                for each in reports
            ),
        )
        yield "tokens/s", f"{speeds[0]:.0f}", f"{speeds[1]:.0f}{ratio}"

    def _counts(self) -> dict[str, int]:
        return Counter(each.verdict.value for each in self.comparisons)

    def _summary(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self._counts().items())
        differences = [
            each.logprob_difference
            for each in self.comparisons
            if each.logprob_difference is not None
        ]
        largest = (
            "; log-probabilities of equal tokens differ by at most "
            f"{max(differences):.4f}"
            if differences
            else ""
        )
        within = f" (tolerance {self.tolerance:g})" if self.tolerance else ""
        return f"{'agree' if self.agree else 'disagree'}{within}: {counts}{largest}"


def label(options: Mapping[str, Any]) -> str:
    """Return the options of a side in a few words."""
    shown = dict(options)
    backend = shown.pop("backend", "auto")
    shown |= shown.pop("backend_options")
    listed = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{backend} ({listed})" if listed else backend


def _finish_reasons(report: SideReport) -> dict[str, int]:
    return Counter(
        answer.error or str(answer.finish_reason) for answer in report.answers
    )


def _difference(each: Comparison) -> Iterator[str]:
    if each.divergence is not None:
        yield from _divergence(each.divergence)
        return
    for number, answer in enumerate(each.answers, 1):
        shown = (
            f"{answer.error}: {answer.message}"
            if answer.error
            else f"{len(answer.prompt_token_ids)} prompt tokens, "
            f"{len(answer.token_ids)} new, {answer.finish_reason}, stop reason "
            f"{answer.stop_reason!r}, text {answer.text!r}"
        )
        yield f"side {number}: {shown}"


def _divergence(found: Divergence) -> Iterator[str]:
    yield f"at new token {found.position}:"
    for number, (token_id, text, gap) in enumerate(
        zip(found.token_ids, found.texts, found.gaps, strict=True), 1
    ):
        shown = "" if text is None else f" {text!r}"
        yield f"side {number}: {token_id}{shown}, {_gap(gap)}"


def _gap(gap: Gap | None) -> str:
    if gap is None:
        return "no log-probabilities"
    at_least = "" if gap.is_exact else "at least "
    return f"{at_least}{gap.nats:.4f} nats over the other side's"
