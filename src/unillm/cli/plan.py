# SPDX-License-Identifier: Apache-2.0

"""``unillm plan``: what an engine would take of time and memory, before it is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from . import options
from .exit_codes import ExitCode
from .reporting import reported
from .sizes import parse_size, size
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.folder import Entry
    from ..artifacts.plan import EnginePlan, MemoryPlan
    from ..artifacts.progress import PastBuild


def plan(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Directory, hub id, or the bundled unillm/tiny.")
    ],
    *,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory",
            metavar="SIZE",
            help="Memory of the device, such as 24GiB: says whether it fits, and what "
            "would.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    backend: options.Backend = None,
    dtype: options.Dtype = "auto",
    quantization: options.Quantization = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    tensor_parallel_size: options.TensorParallelSize = None,
    trust_remote_code: options.TrustRemoteCode = False,
    option: options.BackendOption = None,
    debug: options.Debug = False,
) -> None:
    """Show what would be built and why, how long it takes, and its memory by part."""
    with reported(context, debug=debug):
        from ..preparation import plan_engine

        found = plan_engine(
            model,
            backend=backend,
            memory_bytes=None
            if gpu_memory is None
            else parse_size(gpu_memory, option="--gpu-memory"),
            dtype=dtype,
            quantization=quantization,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            tensor_parallel_size=tensor_parallel_size,
            trust_remote_code=trust_remote_code,
            backend_options=options.parse_key_values(option or []),
        )
        if as_json:
            write_json(_as_json(found))
        else:
            _write(found)
        if found.memory is not None and found.memory.fits is False:
            raise typer.Exit(ExitCode.ENGINE)


# --------------------------------------------------------------------------- for people


def _write(found: EnginePlan) -> None:
    from .tables import pairs_table, print_table

    table = pairs_table()
    for name, value in _facts(found):
        table.add_row(name, value)
    print_table(table)


def _facts(found: EnginePlan) -> Iterator[tuple[str, str]]:
    yield "model", found.model
    yield "backend", found.backend
    yield "engine", _verdict(found)
    if found.spec is not None:
        if found.spec.unknown:
            names = " and ".join(found.spec.unknown)
            yield (
                "not known here",
                f"{names}: the engine is not installed, or no device",
            )
        yield "built before", _past(found.past)
    if found.memory is None:
        yield "memory", f"unknown: {found.memory_refusal}"
    else:
        yield from _memory(found.memory)


def _verdict(found: EnginePlan) -> str:
    from ..artifacts.plan import Outcome

    changed = ", ".join(str(difference) for difference in found.differences)
    if found.outcome is Outcome.NOTHING_TO_BUILD:
        return "nothing to build: this backend loads the model as it is"
    if found.outcome is Outcome.READY:
        return f"is there: {_name(found.used)}"
    if found.outcome is Outcome.COVERED:
        return f"a larger one serves: {_name(found.used)}; {changed}"
    if found.nearest is not None:
        return f"would be built; the nearest is {_name(found.nearest)}: {changed}"
    return "would be built; there is none for this model and backend"


def _name(entry: Entry | None) -> str:
    return "" if entry is None else entry.key[:12]


def _past(past: PastBuild | None) -> str:
    if past is None:
        return "never, so nobody knows how long it takes"
    return f"{past}, and {size(past.total_bytes)} on the disk"


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
    verdict = "fits" if memory.fits else "does not fit"
    return f"{total} of {size(memory.available_bytes)}: {verdict}"


def _fitting(memory: MemoryPlan) -> str:
    alone = [f"{name}={value}" for name, value in memory.largest.items() if value]
    if alone:
        return f"{', or '.join(alone)}, with the others as they are"
    if together := memory.largest_together:
        limits = attrs.asdict(together).items()
        return f"{', '.join(f'{name}={value}' for name, value in limits)} together"
    return "nothing: take a smaller model, dtype or quantization, or more devices"


# ------------------------------------------------------------------------- for programs


def _as_json(found: EnginePlan) -> dict[str, Any]:
    from ..artifacts.records import to_json

    past, memory = found.past, found.memory
    return {
        "model": found.model,
        "backend": found.backend,
        "verdict": found.outcome.value,
        "key": found.spec and found.spec.key,
        "spec": found.spec and to_json(found.spec),
        "unknown": list(found.spec.unknown) if found.spec else [],
        "used": found.used and found.used.key,
        "nearest": found.nearest and found.nearest.key,
        "differences": [attrs.asdict(each) for each in found.differences],
        "past": past and to_json(past),
        "memory": memory and _memory_as_json(memory),
        "memory_refusal": found.memory_refusal,
    }


def _memory_as_json(memory: MemoryPlan) -> dict[str, Any]:
    together = memory.largest_together
    return {
        "limits": attrs.asdict(memory.limits),
        **attrs.asdict(memory.estimate),
        "total_bytes": memory.estimate.total_bytes,
        "available_bytes": memory.available_bytes,
        "fits": memory.fits,
        "largest": dict(memory.largest),
        "largest_together": together and attrs.asdict(together),
    }
