# SPDX-License-Identifier: Apache-2.0

"""One side of a comparison: ``python -m unillm.comparison.worker``, with JSON lines.

Standard input has a line of `Task`, one line for each prompt, and ``{"end": true}``.
Standard output has ``ready`` (what was loaded), ``answer`` for each prompt, and
``done``; an ``error`` ends it early. Whatever the engine prints goes to standard error.
The process ends when standard input is closed, because then its caller is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import attrs
from cattrs.preconf.json import make_converter

from ..errors import EngineError, UnillmError, UnsupportedParameterError
from ..phases import listening
from ..process.child import wake_when_parent_ends
from .verdict import Answer, Candidate

if TYPE_CHECKING:
    from .. import Generator, RequestOutput, SamplingParams

PROTOCOL = 2
"""Changes when one version would misread the lines of another."""

CONVERTER = make_converter()
"""Between the values of a line and JSON."""

LOGPROBS = 5
"""Most probable tokens at each position, for the gap at a divergence."""


@attrs.frozen(kw_only=True)
class Task:
    """The first line: what to load and how long the greedy answers may be."""

    protocol: int = PROTOCOL
    model: str
    options: Mapping[str, Any]
    """Options of `Generator`, as JSON values."""
    max_tokens: int


@attrs.frozen(kw_only=True)
class Ready:
    """The loaded engine."""

    unillm: str
    """Version of unillm on this side."""
    backend: str
    distribution: str
    """Name and version of the distribution that provides the backend."""
    python: str
    max_model_len: int
    load_s: float
    """Seconds until the engine could take requests."""


@attrs.frozen(kw_only=True)
class Done:
    """Speed of a second pass over the prompts, without log-probabilities."""

    seconds: float
    num_tokens: int
    repeats: bool
    """Whether both passes gave the same tokens."""


def main() -> None:
    """Answer one task and exit."""
    send = sender(take_stdout())
    try:
        task, prompts = _read_task(sys.stdin)
        threading.Thread(target=_end_with_caller, daemon=True).start()
        with listening(lambda status: send(phase=status)):
            _answer_all(task, prompts, send)
    except Exception as error:  # noqa: BLE001 - the caller reports it
        traceback.print_exc()
        send(error={"kind": type(error).__name__, "message": str(error)})
        sys.exit(1)


def take_stdout() -> TextIO:
    """Return a stream to the caller; other prints go to standard error from now on.

    The process then ends with its caller, stopped or not.
    """
    wake_when_parent_ends()
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def sender(output: TextIO) -> Callable[..., None]:
    """Return a function that writes lines to the caller, from any thread."""
    lock = threading.Lock()

    def send(**line: Any) -> None:
        with lock:
            output.write(CONVERTER.dumps(line) + "\n")
            output.flush()

    return send


def _read_task(lines: TextIO) -> tuple[Task, list[Any]]:
    task = Task(**json.loads(lines.readline()))
    if task.protocol != PROTOCOL:
        raise UnillmError(
            f"The two sides have incompatible versions of unillm (protocol "
            f"{task.protocol} and {PROTOCOL}). Install the same version in both."
        )
    prompts = []
    for line in iter(lines.readline, ""):
        prompt = json.loads(line)
        if prompt == {"end": True}:
            break
        prompts.append(prompt)
    return task, prompts


def _end_with_caller() -> None:
    # os.read, because a thread that waits in sys.stdin holds its lock until the exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _answer_all(task: Task, prompts: Sequence[Any], send: Any) -> None:
    from .. import SamplingParams, __version__
    from ..generator import open_generator
    from ..resolve import resolve

    start = time.perf_counter()
    resolved = resolve(task.model, **task.options)
    with open_generator(resolved) as generator:
        ready = Ready(
            unillm=__version__,
            backend=generator.backend,
            distribution=resolved.distribution,
            python=sys.executable,
            max_model_len=generator.limits.max_model_len,
            load_s=time.perf_counter() - start,
        )
        send(ready=ready)
        greedy = SamplingParams(temperature=0, max_tokens=task.max_tokens)
        answers = [answer_of(each) for each in outcomes(generator, prompts, greedy)]
        for answer in answers:
            send(answer=answer)
        start = time.perf_counter()
        again = generator.generate(prompts, greedy, on_error="return", use_tqdm=False)
        seconds = time.perf_counter() - start
    repeated = [answer_of(each).token_ids for each in again]
    done = Done(
        seconds=seconds,
        num_tokens=sum(map(len, repeated)),
        repeats=repeated == [answer.token_ids for answer in answers],
    )
    send(done=done)


def outcomes(
    generator: Generator, prompts: Sequence[Any], greedy: SamplingParams
) -> list[RequestOutput | Exception]:
    """Answer with log-probabilities if the engine has them, else without."""
    params = attrs.evolve(greedy, logprobs=LOGPROBS)
    found = generator.generate(prompts, params, on_error="return", use_tqdm=False)
    if any(
        isinstance(each, UnsupportedParameterError) and each.parameter == "logprobs"
        for each in found
    ):
        return generator.generate(prompts, greedy, on_error="return", use_tqdm=False)
    return found


def answer_of(outcome: RequestOutput | Exception) -> Answer:
    """Return an outcome as an answer.

    Raises:
        EngineError: The outcome is an error of every prompt.
    """
    if isinstance(outcome, EngineError):  # of every prompt
        raise outcome
    if isinstance(outcome, Exception):
        return Answer(error=type(outcome).__name__, message=str(outcome))
    completion = outcome.outputs[0]
    candidates = None
    if completion.logprobs is not None:
        candidates = [
            [
                Candidate(token_id, entry.logprob, entry.decoded_token)
                for token_id, entry in entries.items()
            ]
            for entries in completion.logprobs
        ]
    return Answer(
        prompt_token_ids=outcome.prompt_token_ids,
        token_ids=completion.token_ids,
        text=completion.text,
        finish_reason=completion.finish_reason,
        stop_reason=completion.stop_reason,
        candidates=candidates,
    )


if __name__ == "__main__":
    main()
