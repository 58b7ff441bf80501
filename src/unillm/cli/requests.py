# SPDX-License-Identifier: Apache-2.0

"""From the prompts of the command line to requests, and to results in their order.

Any number of prompts in bounded memory: so many requests are under way, and a result
is handed on as soon as all before it are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from ..errors import (
    EngineError,
    GeneratorClosedError,
    InvalidPromptError,
    QueueFullError,
    UnillmError,
    UnsupportedParameterError,
)

if TYPE_CHECKING:
    from .. import Generator, PromptType, RequestHandle, RequestOutput, SamplingParams
    from .prompts import CliPrompt

MAX_UNDER_WAY = 2048
"""Requests that are submitted and not yet written; many more than an engine has slots,
so that a slow one at the head lets the others go on."""

_FOR_ALL = (EngineError, GeneratorClosedError, UnsupportedParameterError)
"""Errors that hold for every prompt of a run, so that going on makes no sense."""


@attrs.frozen(kw_only=True)
class Result:
    """What became of one prompt: `output` or `error`."""

    index: int
    prompt: CliPrompt
    output: RequestOutput | None = None
    error: UnillmError | None = None


@attrs.frozen(kw_only=True)
class Requests:
    """Turns prompts into requests of one generator."""

    generator: Generator
    params: SamplingParams | None
    """`None` for the model's own defaults."""
    chat: bool = False
    """Whether a text is what a user says in a chat."""
    system: str | None = None
    """What the system says before it."""

    def start(self, prompt: CliPrompt) -> RequestHandle:
        """Submit one prompt.

        Raises:
            RequestError: It is refused.
            ChatTemplateError: The model has no chat template, or it refused the chat.
        """
        if prompt.error is not None:
            raise prompt.error
        return self.generator.submit(self._request(prompt), self.params)

    def results(self, prompts: Iterable[CliPrompt]) -> Iterator[Result]:
        """Submit all prompts and yield what became of each, in their order.

        Raises:
            EngineError: The engine died; what was yielded before stands.
            UnsupportedParameterError: The backend cannot honour the params at all.
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
        """Return the handle, or the error that concerns this prompt alone."""
        try:
            return self.start(prompt)
        except _FOR_ALL:
            raise
        except UnillmError as error:
            return error

    def _request(self, prompt: CliPrompt) -> PromptType:
        if prompt.messages is not None:
            return {"messages": prompt.messages}
        if prompt.token_ids is not None:
            if self.chat:
                raise InvalidPromptError(
                    "--chat needs text or messages, and this prompt is token ids."
                )
            return {"prompt": prompt.text, "prompt_token_ids": prompt.token_ids}
        if not self.chat:
            return {"prompt": prompt.text or ""}
        messages = [{"role": "user", "content": prompt.text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return {"messages": messages}


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
