# SPDX-License-Identifier: Apache-2.0

"""A second engine that repeats requests: ``python -m unillm.comparison.follower``.

Standard input has a line of `Following`, and then a line of `Repeat` for each request,
at any time. Standard output has ``ready``, and an ``answer`` for each request as it
ends; an ``error`` is the last line of an engine that cannot go on. Whatever the engine
prints goes to standard error. The process ends when standard input is closed, because
then its caller is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import EngineError
from .verdict import Answer
from .worker import CONVERTER, answer_of, outcomes, take_stdout

if TYPE_CHECKING:
    from .. import SamplingParams

MAX_RUNNING = 8
"""Requests that are repeated at the same time."""

_NICENESS = 10
"""The caller's engine goes first where both share cores."""


@attrs.frozen(kw_only=True)
class Following:
    """The first line: what to load."""

    model: str
    options: Mapping[str, Any]
    """Options of `Generator`, as JSON values."""


@attrs.frozen(kw_only=True)
class Repeat:
    """A request, as the first engine had it."""

    number: int
    prompt_token_ids: Sequence[int]
    params: Mapping[str, Any]
    """Fields of `SamplingParams`, as JSON values."""


@attrs.frozen(kw_only=True)
class Repeated:
    """The second engine's answer to a request."""

    number: int
    answer: Answer
    seconds: float
    """From arrival to the last token."""


def main() -> None:
    """Repeat requests until standard input ends."""
    output = take_stdout()
    lock = threading.Lock()

    def send(**line: Any) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # the caller is gone
            output.write(CONVERTER.dumps(line) + "\n")
            output.flush()

    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    lines = _lines()
    try:
        _follow(Following(**json.loads(next(lines))), lines, send)
    except Exception as error:  # noqa: BLE001 - the caller reports it
        traceback.print_exc()
        send(error={"kind": type(error).__name__, "message": str(error)})
        sys.exit(1)


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; end the process when there are no more.

    A thread reads them, so that a process whose caller is gone ends while it loads.
    """
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        with os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8") as lines:
            for line in lines:
                found.put(line)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield found.get()


def _follow(following: Following, lines: Iterator[str], send: Any) -> None:
    from .. import Generator, SamplingParams

    with Generator(following.model, **following.options) as generator:
        send(ready={"backend": generator.backend})

        def repeat(request: Repeat) -> None:
            begun = time.monotonic()
            try:
                ids, params = list(request.prompt_token_ids), request.params
                [outcome] = outcomes(generator, [ids], SamplingParams(**params))
                answer = answer_of(outcome)
            except EngineError as error:
                send(error={"kind": type(error).__name__, "message": str(error)})
                os._exit(1)  # no request can be repeated any more
            seconds = time.monotonic() - begun
            send(answer=Repeated(number=request.number, answer=answer, seconds=seconds))

        with ThreadPoolExecutor(MAX_RUNNING) as threads:
            for line in lines:
                threads.submit(repeat, CONVERTER.loads(line, Repeat))


def json_params(params: SamplingParams) -> dict[str, Any]:
    """Return the fields that are not default, as JSON values.

    Left out are the log-probabilities, which the follower asks for itself.
    """
    names = set(params.__struct_fields__)
    names -= {"logprobs", "prompt_logprobs", "truncate_prompt_tokens"}
    given = {
        name: getattr(params, name) for name in names if not params.is_default(name)
    }
    if params.structured_outputs is not None:
        structure = attrs.asdict(params.structured_outputs)
        given["structured_outputs"] = {
            name: value for name, value in structure.items() if value
        }
    if "logit_bias" in given:
        given["logit_bias"] = list(params.logit_bias.items())  # keys stay integers
    return given


if __name__ == "__main__":
    main()
