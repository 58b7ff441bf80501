# SPDX-License-Identifier: Apache-2.0

"""``unillm inspect``: the facts about a model before it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import unillm

from ..byte_text import size
from . import options
from .commands import command
from .writing import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from .. import MemoryReport, ModelReport, WeightsReport

_SHOWN_LENGTH = 300
"""Characters of a reason or of the chat example; ``--json`` has all."""


@command
def inspect(
    model: options.ModelArgument,
    *,
    slots: Annotated[
        int | None,
        typer.Option(help="Slots in the estimate of the memory. Default: 1."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of each slot in that estimate. Default: the context."
        ),
    ] = None,
    as_json: options.AsJson = False,
    engine: options.Reading,
) -> None:
    """Show a model's limits, EOS tokens, defaults and memory; loads no weights."""
    report = unillm.inspect_model(model, slots=slots, length=length, **engine)
    if as_json:
        write_json(report)
    else:
        _write_report(report)


def _write_report(report: ModelReport) -> None:
    from .tables import pairs_table, print_table

    print_table(pairs_table(*_facts(report)))
    typer.echo(f"\n{typer.style('EOS tokens', bold=True)}")
    print_table(_eos_table(report))
    if report.chat_example is not None:
        example = json.dumps(report.chat_example, ensure_ascii=False)
        typer.echo(f"\n{typer.style('a chat message becomes', bold=True)}")
        typer.echo(_shortened(example))


def _facts(report: ModelReport) -> Iterator[tuple[str, str]]:
    yield "model", report.model
    yield "path", str(report.path)
    kind = ", ".join(report.architectures) or "not said"
    yield "architecture", f"{kind} ({report.model_type or 'no model type'})"
    yield "backend", report.backend or f"none: {_shortened(report.backend_refusal)}"
    if report.backend_remark:
        yield "", _shortened(report.backend_remark)
    yield "context", _count(report.context_length, "tokens")
    in_tokenizer = _count(report.tokenizer_size, "of them in the tokenizer")
    yield "vocabulary", f"{_count(report.vocab_size, 'rows')}, {in_tokenizer}"
    yield "parameters", _parameters(report.weights)
    yield from _memory(report.memory, report.memory_refusal)
    yield "chat template", _chat_template(report)
    yield "default sampling", _default_sampling(report)
    for remark in report.default_remarks:
        yield "", _shortened(remark)


def _parameters(weights: WeightsReport | None) -> str:
    if weights is None:
        return "unknown: there are no safetensors files"
    kinds = ", ".join(sorted(weights.parameters_by_dtype))
    files = f"{weights.num_files} file{'s' * (weights.num_files != 1)}"
    return (
        f"{weights.num_parameters:,} ({kinds}, {size(weights.file_bytes)} in {files})"
    )


def _memory(memory: MemoryReport | None, refusal: str) -> Iterator[tuple[str, str]]:
    if memory is None:
        yield "memory", f"unknown: {_shortened(refusal)}"
        return
    kind = "stored" if memory.dtype == "auto" else memory.dtype
    yield "weights", f"{size(memory.weight_bytes)} as {kind}"
    yield "cache per token", size(memory.kv_bytes_per_token)
    slots = f"{memory.slots} slot{'s' * (memory.slots != 1)}"
    yield "cache", f"{size(memory.kv_bytes)} for {slots} of {memory.length:,} tokens"
    step = f"{memory.max_num_batched_tokens:,} tokens in a step"
    yield "activations", f"about {size(memory.activation_bytes)} for {step}"
    yield "memory", f"about {size(memory.total_bytes)}"


def _chat_template(report: ModelReport) -> str:
    if not report.has_chat_template:
        return "none"
    if report.chat_example is None:
        return f"yes, but: {_shortened(report.chat_refusal)}"
    return "yes"


def _default_sampling(report: ModelReport) -> str:
    """Return the params in which the model differs from `SamplingParams()`."""
    params = report.default_sampling_params
    changed = [
        f"{name}={getattr(params, name)}"
        for name in params.__struct_fields__
        if not params.is_default(name)
    ]
    return ", ".join(changed) or "unillm's (generation_config has none)"


def _eos_table(report: ModelReport) -> Table:
    from rich.text import Text

    from .tables import column_table

    table = column_table("id", "token", "named by")
    table.columns[0].justify = "right"
    eos = report.eos
    for source in (*eos.sources, *eos.ignored):
        named_by = ", ".join(source.origins)
        if source.token_id == eos.primary:
            named_by += " (primary)"
        if source in eos.ignored:
            named_by += " (ignored: outside the vocabulary)"
        table.add_row(str(source.token_id), Text(source.token or "–"), Text(named_by))
    return table


def _count(number: int | None, of_what: str) -> str:
    return f"{'unknown' if number is None else f'{number:,}'} {of_what}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 1]}…"
