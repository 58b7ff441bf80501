# SPDX-License-Identifier: Apache-2.0

"""`Compilation`: a decode step that a process compiles while the engine goes on.

torch's compiler is Python, and holds its lock: in a thread of this process it would
slow each operation of a step, and what it changes while it traces is global, such as
the states of random generators and the calls of all modules. So a process of its own
traces the model, without its weights, and this one loads the compiled form, for which
torch traces nothing.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from typing import Any

import attrs
from torch import Tensor

from ..cache import SlotCache
from ..masks import Masks
from . import blueprint
from .compilable import Compiled, kernel_of

_COMMAND = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from unillm.embedded import step_compiler; step_compiler.main()"
)
"""The process finds the modules that this one finds, and no others."""

_GRACE_S = 5.0
"""How long a process that has answered may take to end, and `Compilation.close` waits
for a step that is being loaded."""


@attrs.frozen(kw_only=True)
class Task:
    """The step that the process compiles."""

    model: Any
    cache: SlotCache
    masks: Masks
    rows: int
    threads: int
    """Threads that the compiled step computes with."""


@attrs.frozen(kw_only=True)
class Answer:
    """The process's answer: a compiled step, or why there is none."""

    error: str = ""
    """Why there is no compiled step."""
    artifact: bytes = b""
    """torch's serialised form of it."""
    kernel: str = ""
    """Path of the library by which it attends."""
    inputs: list[int | None] = attrs.field(factory=list)
    """For each of its inputs, the number of a tensor of the task, or `None` for what
    the step is fed."""
    output: int = 0
    """Which of its outputs are the logits."""


class Compilation:
    """A decode step that is being compiled.

    Args:
        task: The step.

    Raises:
        Exception: The model cannot be described to another process.
    """

    def __init__(self, task: Task) -> None:
        self.rows = task.rows
        described, self._tensors = blueprint.dump(task)
        self._kernel = kernel_of(task.model, task.cache)
        self._loaded: tuple[Any, Answer] | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(
            target=self._work, args=(described,), name="unillm-compile", daemon=True
        )
        self._thread.start()

    def is_over(self) -> bool:
        """Return whether the step is loaded, or never will be."""
        return not self._thread.is_alive()

    def result(self) -> Compiled:
        """Return the compiled step, once `is_over`.

        Raises:
            Exception: torch could not compile the step, or cannot load it.
        """
        if self._loaded is None:
            raise self._error or RuntimeError("compiling was ended")
        artifact, answer = self._loaded
        inputs = [None if i is None else self._tensors[i] for i in answer.inputs]
        return _Step(artifact, inputs, answer.output)

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            self._closed.set()
            if self._process is not None and self._process.returncode is None:
                _kill(self._process)
        self._thread.join(_GRACE_S)
        self._tensors.clear()

    # --------------------------------------------------------------------- the thread

    def _work(self, described: bytes) -> None:
        # The process also ends when the thread that started it does: this one.
        try:
            answer = self._ask(described)
            if answer is not None:
                self._kernel.load(answer.kernel)
                self._loaded = _load(answer.artifact), answer
        except Exception as error:  # noqa: BLE001 - a compiler may raise anything
            self._error = error

    def _ask(self, described: bytes) -> Answer | None:
        with self._lock:
            if self._closed.is_set():
                return None
            process = self._process = _start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; its answer is empty
            process.stdin.write(struct.pack("<Q", len(described)) + described)
            process.stdin.flush()
        written = process.stdout.read()
        # The process group stays until it is waited for, so `close` kills no other.
        with self._lock:
            _await(process)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        if self._closed.is_set():
            return None
        if process.returncode or not written:
            raise RuntimeError(
                f"the compiling process ended with status {process.returncode}"
            )
        answer: Answer = pickle.loads(written)  # noqa: S301 - from our own process
        if answer.error:
            raise RuntimeError(answer.error)
        return answer


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-c", _COMMAND, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        },
        start_new_session=True,  # Ctrl-C is for this program
    )


def _await(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has closed its output, but not for ever."""
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was not waited for, with its C++ compilers."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _load(artifact: bytes) -> Any:
    """Return a callable of torch from its serialised form."""
    # Imported here, because torch's compiler has hundreds of modules.
    from torch._inductor import config
    from torch._inductor.standalone_compile import AOTCompiledArtifact

    with config.patch(compile_threads=1):  # in this thread alone: start no processes
        return AOTCompiledArtifact.deserialize(artifact)


class _Step:
    """A compiled step with its weights and its cache.

    Args:
        artifact: What torch has loaded.
        inputs: Its inputs, with `None` for what a step is fed.
        output: Which of its outputs are the logits.
    """

    def __init__(self, artifact: Any, inputs: list[Tensor | None], output: int) -> None:
        self._artifact = artifact
        self._inputs = inputs
        self._fed = inputs.index(None)
        self._output = output

    def __call__(self, fed: Tensor) -> Tensor:
        inputs = self._inputs.copy()
        inputs[self._fed] = fed
        logits: Tensor = self._artifact(*inputs)[self._output]
        return logits
