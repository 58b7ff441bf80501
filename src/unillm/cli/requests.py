# SPDX-License-Identifier: Apache-2.0

"""Prompts of the command line as requests, and their results in order.

Memory is bounded for any number of prompts: a limited number of requests runs at a
time, and each result is yielded as soon as all earlier ones are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import (
    EngineError,
    GeneratorClosedError,
    InvalidParameterError,
    InvalidPromptError,
    QueueFullError,
    UnillmError,
    UnsupportedParameterError,
)

if TYPE_CHECKING:
    from .. import (
        Generator,
        LoRARequest,
        RequestHandle,
        RequestOutput,
        SamplingParams,
    )
    from ..protocol.endpoints import Endpoint
    from .prompts import CliPrompt

MAX_UNDER_WAY = 2048
"""Requests that are submitted and not yet written. Many more than an engine has slots:
a slow request at the head does not stop the others."""

_NOT_HERE = {
    "echo": "it has the prompt in a key of its own",
    "prompt_logprobs": "unillm batch writes them",
    "stream": "leave it out",
}
"""Fields of lines that change how an answer is written, and what to do without."""

_FOR_ALL = (EngineError, GeneratorClosedError, UnsupportedParameterError)
"""Errors that hold for every prompt of a run and end it."""


@attrs.frozen(kw_only=True)
class Result:
    """The `output` of one prompt, or its `error`."""

    index: int
    prompt: CliPrompt
    output: RequestOutput | None = None
    error: UnillmError | None = None


@attrs.frozen(kw_only=True)
class Requests:
    """Submits prompts to one generator."""

    generator: Generator
    params: SamplingParams
    """Params of texts, and of JSON lines for the fields that they lack."""
    chat: bool = False
    """Whether each text becomes a user message."""
    system: str | None = None
    """System message before it."""
    adapter: LoRARequest | None = None
    """Adapter for all prompts."""

    def start(self, prompt: CliPrompt) -> RequestHandle:
        """Submit one prompt.

        Raises:
            RequestError: The generator refuses the prompt.
            ChatTemplateError: The model has no chat template, or its template refuses
                the messages.
        """
        if prompt.error is not None:
            raise prompt.error
        if prompt.endpoint is not None:
            return self._start_line(prompt.endpoint)
        return self.generator.submit(
            self._input(prompt), self.params, lora_request=self.adapter
        )

    def _input(self, prompt: CliPrompt) -> Any:  # the generator checks it
        if not self.chat:
            return prompt.as_input()
        messages = [{"role": "user", "content": prompt.text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return {"messages": messages}

    def _start_line(self, endpoint: Endpoint) -> RequestHandle:
        body = endpoint.body
        for name, remedy in _NOT_HERE.items():
            if getattr(body, name, None):
                raise InvalidParameterError(
                    f"{name} has no place in the output of unillm generate: {remedy}.",
                    parameter=name,
                    value=getattr(body, name),
                )
        model = self.generator.config.model
        if body.model not in (None, model):
            raise InvalidParameterError(
                f"The line asks for the model {body.model[:80]!r}, and {model!r} is "
                "loaded. Leave the field out, or pass that model with --model.",
                parameter="model",
                value=body.model,
            )
        prompts = endpoint.prompts(self.generator)()
        if len(prompts) != 1:
            raise InvalidPromptError(
                f"A line has one prompt, got {len(prompts)}. Write a line for each."
            )
        return self.generator.submit(
            prompts[0],
            endpoint.params(self.params),
            lora_request=self.adapter,
            priority=body.priority or 0,
            timeout_s=body.timeout_s,
        )

    def results(self, prompts: Iterable[CliPrompt]) -> Iterator[Result]:
        """Submit all prompts and yield their results in order.

        Raises:
            EngineError: The engine died. The results until then were yielded.
            UnsupportedParameterError: The backend cannot honour the params.
        """
        waiting: deque[tuple[int, CliPrompt, RequestHandle | UnillmError]] = deque()
        for index, prompt in enumerate(prompts):
            while len(waiting) >= MAX_UNDER_WAY:
                yield _result(*waiting.popleft())
            started = self._try_start(prompt)
            while isinstance(started, QueueFullError) and waiting:
                yield _result(*waiting.popleft())
                started = self._try_start(prompt)
            waiting.append((index, prompt, started))
            while waiting and _is_done(waiting[0][2]):
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())

    def _try_start(self, prompt: CliPrompt) -> RequestHandle | UnillmError:
        """Return the handle, or an error of this prompt alone."""
        try:
            return self.start(prompt)
        except _FOR_ALL as error:
            if prompt.own and isinstance(error, UnsupportedParameterError):
                return error  # of a field that this line alone may have
            raise
        except UnillmError as error:
            return error


def _is_done(started: RequestHandle | UnillmError) -> bool:
    return isinstance(started, UnillmError) or started.done()


def _result(
    index: int, prompt: CliPrompt, started: RequestHandle | UnillmError
) -> Result:
    if isinstance(started, UnillmError):
        return Result(index=index, prompt=prompt, error=started)
    try:
        return Result(index=index, prompt=prompt, output=started.result())
    except _FOR_ALL:
        raise
    except UnillmError as error:
        return Result(index=index, prompt=prompt, error=error)
