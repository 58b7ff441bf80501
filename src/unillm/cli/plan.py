# SPDX-License-Identifier: Apache-2.0

"""``unillm plan``: time and memory of an engine, before it is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..byte_text import size
from . import options
from .commands import command
from .exit_codes import ExitCode
from .sizes import parse_size
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.plan import EnginePlan, MemoryPlan


@command
def plan(
    model: options.ModelArgument,
    *,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of the device, such as 24GiB: shows whether the engine fits, "
            "and the limits that would.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    engine: Annotated[options.Engine, options.Without("tokenizer", "python")],
) -> None:
    """Show what would be built and why, how long it takes, and its memory by part."""
    from ..preparation import plan_engine

    memory_bytes = parse_size(gpu_memory, option="--gpu-memory")
    found = plan_engine(model, memory_bytes=memory_bytes, **engine)
    if as_json:
        write_json(_as_json(found))
    else:
        from .tables import pairs_table, print_table

        print_table(pairs_table(*_facts(found)))
    if found.memory is not None and found.memory.fits is False:
        raise typer.Exit(ExitCode.ENGINE)


# --------------------------------------------------------------------------- for people


def _facts(found: EnginePlan) -> Iterator[tuple[str, str]]:
    yield "model", found.model
    yield "backend", found.backend
    yield "engine", _engine(found)
    if found.spec is not None:
        if found.spec.unknown:
            names = " and ".join(found.spec.unknown)
            yield (
                "not known here",
                f"{names}: the engine is not installed, or no device",
            )
        past = found.past
        yield (
            "built before",
            f"{past}, and {size(past.total_bytes)} on the disk"
            if past
            else "never; no estimate",
        )
    if found.memory is None:
        yield "memory", f"unknown: {found.memory_refusal}"
    else:
        yield from _memory(found.memory)


def _engine(found: EnginePlan) -> str:
    from ..artifacts.plan import Outcome

    changed = ", ".join(str(difference) for difference in found.differences)
    if found.outcome is Outcome.NOT_INSTALLED:
        return "not known: the plugin of this backend is not installed"
    if found.spec is None:
        return "nothing to build: this backend loads the model as it is"
    if found.used is not None:
        name = found.used.key[:12]
        return (
            f"a larger one serves: {name}; {changed}"
            if changed
            else f"is there: {name}"
        )
    if found.nearest is not None:
        return f"would be built; the nearest is {found.nearest.key[:12]}: {changed}"
    return "would be built; there is none for this model and backend"


def _memory(memory: MemoryPlan) -> Iterator[tuple[str, str]]:
    estimate, limits = memory.estimate, memory.limits
    requests = f"{limits.max_num_seqs:,} request{'s' * (limits.max_num_seqs != 1)}"
    full = f"{requests} of {limits.max_model_len:,} tokens"
    step = f"steps of {limits.max_num_batched_tokens:,} tokens"
    yield "weights", size(estimate.weight_bytes)
    yield "cache per token", size(estimate.kv_bytes_per_token)
    yield "cache", f"{size(estimate.cache_bytes)} for {full}"
    yield "activations", f"{size(estimate.activation_bytes)} for {step}"
    yield "workspace", size(estimate.workspace_bytes)
    yield "memory", _total(memory)
    if memory.fits is False:
        yield "would fit", _fitting(memory)


def _total(memory: MemoryPlan) -> str:
    total = size(memory.estimate.total_bytes)
    if memory.available_bytes is None:
        return f"{total}; --gpu-memory says whether it fits"
    result = "fits" if memory.fits else "does not fit"
    return f"{total} of {size(memory.available_bytes)}: {result}"


def _fitting(memory: MemoryPlan) -> str:
    alone = [f"{name}={value}" for name, value in memory.largest.items()]
    if alone:
        return f"{', or '.join(alone)}, with the others as they are"
    if together := memory.largest_together:
        limits = attrs.asdict(together).items()
        return f"{', '.join(f'{name}={value}' for name, value in limits)} together"
    return "nothing: take a smaller model, dtype or quantization, or more devices"


# ------------------------------------------------------------------------- for programs


def _as_json(found: EnginePlan) -> dict[str, Any]:
    return {
        "model": found.model,
        "backend": found.backend,
        "verdict": found.outcome,
        "key": found.spec and found.spec.key,
        "spec": found.spec,
        "unknown": found.spec.unknown if found.spec else (),
        "used": found.used and found.used.key,
        "nearest": found.nearest and found.nearest.key,
        "differences": found.differences,
        "past": found.past,
        "memory": found.memory and _memory_as_json(found.memory),
        "memory_refusal": found.memory_refusal,
    }


def _memory_as_json(memory: MemoryPlan) -> dict[str, Any]:
    return {
        "limits": memory.limits,
        **attrs.asdict(memory.estimate),
        "total_bytes": memory.estimate.total_bytes,
        "available_bytes": memory.available_bytes,
        "fits": memory.fits,
        "largest": memory.largest,
        "largest_together": memory.largest_together,
    }
