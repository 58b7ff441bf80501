# SPDX-License-Identifier: Apache-2.0

"""``unillm models``: the models in the cache of the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ..byte_text import size
from . import options
from .commands import command
from .reporting import note
from .writing import write_json

if TYPE_CHECKING:
    from ..cached_models import CachedModel


@command
def models(*, as_json: options.AsJson = False) -> None:
    """List the models that were downloaded: size, memory, and who can serve them."""
    from ..cached_models import cache_directory, cached_models

    found = cached_models()
    if as_json:
        write_json(found)
        return
    if not found:
        note(
            f"There is no model in {cache_directory()}. `unillm inspect "
            "Qwen/Qwen3-0.6B` downloads one."
        )
        return
    _write_table(found)
    for model in found:
        if model.problem:
            typer.echo(f"\n{model.name} cannot be used: {model.problem}")
        elif not model.backends:
            reasons = [f"{name}: {why}" for name, why in model.refusals.items()]
            typer.echo(f"\n{model.name} has no backend here: {'; '.join(reasons)}")
    together = sum(model.total_bytes for model in found)
    note(f"{len(found)} in {cache_directory()}, {size(together)} on the disk.")


def _write_table(found: list[CachedModel]) -> None:
    from rich.text import Text

    from .tables import column_table, print_table

    table = column_table(
        "model", "revision", "family", "size", "memory", "backends", "used"
    )
    for model in found:
        memory = "–"
        if model.memory_bytes is not None:
            memory = f"{size(model.memory_bytes)} with {model.length:,} tokens"
        table.add_row(
            Text(model.name),
            Text(", ".join(model.revisions) or model.commit[:7]),
            Text(model.model_type or "–"),
            size(model.total_bytes),
            memory,
            ", ".join(model.backends) or "none",
            f"{model.last_use:%Y-%m-%d}",
        )
    print_table(table)
