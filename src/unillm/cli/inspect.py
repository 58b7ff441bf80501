# SPDX-License-Identifier: Apache-2.0

"""``unillm inspect``: what there is to know of a model before it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from . import options
from .reporting import reported
from .sizes import size
from .writing import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from ..inspection import MemoryReport, ModelReport, WeightsReport

_SHOWN_TEMPLATE = 300
_SHOWN_REFUSAL = 300


def inspect(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Directory, hub id, or the bundled unillm/tiny.")
    ],
    *,
    slots: Annotated[
        int | None,
        typer.Option("--slots", help="Requests at a time, for the memory. Default: 1."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            help="Prompt and new tokens of each, for the memory. Default: the context.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    backend: options.Backend = None,
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
    debug: options.Debug = False,
) -> None:
    """Show a model's limits, end ids, defaults and memory; loads no weights."""
    with reported(context, debug=debug):
        from ..inspection import inspect_model

        report = inspect_model(
            model,
            tokenizer=tokenizer,
            slots=slots,
            length=length,
            dtype=dtype,
            backend=backend or "auto",
            trust_remote_code=trust_remote_code,
        )
        if as_json:
            write_json(_as_json(report))
        else:
            _write_report(report)


def _as_json(report: ModelReport) -> Any:
    def plain(_: Any, __: Any, value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return sorted(value) if isinstance(value, frozenset) else value

    return attrs.asdict(report, value_serializer=plain)


def _write_report(report: ModelReport) -> None:
    from .tables import pairs_table, print_table

    table = pairs_table()
    for name, value in _facts(report):
        table.add_row(name, value)
    print_table(table)
    typer.echo(f"\n{typer.style('end ids', bold=True)}")
    print_table(_eos_table(report))
    if report.chat_example is not None:
        example = json.dumps(report.chat_example, ensure_ascii=False)
        typer.echo(f"\n{typer.style('a chat message becomes', bold=True)}")
        typer.echo(_shortened(example, _SHOWN_TEMPLATE))


def _facts(report: ModelReport) -> Iterator[tuple[str, str]]:
    yield "model", report.model
    yield "path", str(report.path)
    kind = ", ".join(report.architectures) or "not said"
    yield "architecture", f"{kind} ({report.model_type or 'no model type'})"
    refusal = _shortened(report.backend_refusal, _SHOWN_REFUSAL)
    yield "backend", report.backend or f"none: {refusal}"
    if report.backend_remark:
        yield "", _shortened(report.backend_remark, _SHOWN_REFUSAL)
    yield "context", _count(report.context_length, "tokens")
    yield "vocabulary", _vocabulary(report)
    yield "parameters", _parameters(report.weights)
    yield from _memory(report.memory, report.memory_refusal)
    yield "chat template", _chat_template(report)
    yield "default sampling", _default_sampling(report)


def _vocabulary(report: ModelReport) -> str:
    rows = _count(report.vocab_size, "rows")
    return f"{rows}, {_count(report.tokenizer_size, 'of them in the tokenizer')}"


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
        yield "memory", f"unknown: {_shortened(refusal, _SHOWN_REFUSAL)}"
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
        return f"yes, but: {_shortened(report.chat_refusal, _SHOWN_REFUSAL)}"
    return "yes"


def _default_sampling(report: ModelReport) -> str:
    """The fields in which the model differs from `SamplingParams()`."""
    params = report.default_sampling_params
    changed = {
        field.name: value
        for field in attrs.fields(type(params))
        if (value := getattr(params, field.name)) != field.default
    }
    shown = ", ".join(f"{name}={value}" for name, value in changed.items())
    return shown or "the library's (the model's generation_config says nothing)"


def _eos_table(report: ModelReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", justify="right")
    table.add_column("token", overflow="fold")
    table.add_column("named by", overflow="fold")
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


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
