# SPDX-License-Identifier: Apache-2.0

"""From the blueprint of a decode step to its compiled form; no step is computed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._inductor.standalone_compile import AOTCompiledArtifact, standalone_compile
from torch.fx import GraphModule

from .. import attention  # noqa: F401 - registers the attention of the model
from . import blueprint
from .compilable import OPTIONS, Compiled, kernel_of, step_of
from .compiling import Answer


def compile_task(task: bytes) -> bytes:
    """Compile the step of a blueprint of a `Task`, and return a pickled `Answer`."""
    try:
        answer = _compile(task)
    except Exception as error:  # noqa: BLE001 - a compiler may raise anything
        line = str(error).strip().partition("\n")[0]
        answer = Answer(error=f"{type(error).__name__}: {line}")
    return pickle.dumps(answer)


def _compile(described: bytes) -> Answer:
    task, tensors = blueprint.load(described)
    fed = torch.zeros(3, task.rows, dtype=torch.int64)
    options = {**OPTIONS, "cpp.threads": task.threads}
    kernel = kernel_of(task.model, task.cache).build()
    with torch.inference_mode():
        graph, inputs, output = _trace(step_of(task.model, task.cache, task.masks), fed)
        artifact = standalone_compile(
            graph,
            inputs,
            dynamic_shapes="from_example_inputs",
            options={"config_patches": options},
            aot=True,
        )
    assert isinstance(artifact, AOTCompiledArtifact)
    return Answer(
        artifact=artifact.serialize(),
        kernel=kernel,
        inputs=[None if each is fed else _index_of(each, tensors) for each in inputs],
        output=output,
    )


def _trace(step: Compiled, fed: Tensor) -> tuple[GraphModule, list[Any], int]:
    """Return a step's graph, its inputs, and which of its outputs the step returns."""
    calls: list[tuple[GraphModule, list[Any], list[Tensor]]] = []

    def keep(graph: GraphModule, _: list[Any]) -> Any:
        (output,) = graph.graph.find_nodes(op="output")

        def call(*inputs: Any) -> list[Tensor]:
            shown = [node.meta["example_value"] for node in output.args[0]]
            outputs = [torch.zeros(each.shape, dtype=each.dtype) for each in shown]
            calls.append((graph, list(inputs), outputs))
            return outputs

        return call

    result = torch.compile(step, backend=keep, fullgraph=True, dynamic=False)(fed)
    graph, inputs, outputs = calls.pop()
    return graph, inputs, _index_of(result, outputs)


def _index_of(wanted: Any, tensors: Sequence[Tensor]) -> int:
    return next(i for i, tensor in enumerate(tensors) if tensor is wanted)
