# SPDX-License-Identifier: Apache-2.0

"""Results of the LLM API (§2.4)."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import queue

from packaging.version import Version

from . import calls, names, params
from .profiles import current


class RequestError(RuntimeError):
    """A failure of one request (§2.5)."""


@dataclasses.dataclass
class Logprob:
    """An entry of ``logprobs`` (§4.5)."""

    logprob: float
    rank: int | None = None


@dataclasses.dataclass
class Response:
    """A message of the executor, with all ids and log-probabilities so far."""

    token_ids: list
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    logprobs: list = dataclasses.field(default_factory=list)
    prompt_logprobs: list = dataclasses.field(default_factory=list)

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


def make_completion_output():
    """Make ``CompletionOutput``; reasons come in 0.14 (§1.3).

    0.11 has none: its results hold ``token_ids`` and ``text`` themselves.
    """
    return _completion_output(current().version)


@functools.cache
def _completion_output(version):
    return names.make_dataclass("CompletionOutput", slots=True)


class RequestOutput:
    """A future; iterating yields this same object, cumulative (§2.4).

    Attributes:
        cached_tokens: Ids of the prompt whose blocks were in the cache; 1.2 on.
    """

    def __init__(self, request_id, prompt, sampling_params, *, cached_tokens):
        self.request_id = request_id
        self.prompt = None
        self.prompt_token_ids = prompt
        self.finished = False
        if Version(current().version) >= Version("1.2"):
            self.cached_tokens = cached_tokens
        self._num_cached = cached_tokens
        completion = make_completion_output()
        if completion is not None:
            self.outputs = [completion(0)]
        self._params = sampling_params
        self._aborted = False
        self._queue = queue.SimpleQueue()
        try:
            self._loop = asyncio.get_running_loop()
            self._aqueue = asyncio.Queue()
        except RuntimeError:
            self._loop = self._aqueue = None

    def _push(self, response):
        if self._aqueue is None:
            self._queue.put(response)
        elif self._loop.is_closed():
            # The real one raises EventLoopShutdownError in its own thread (§2.5).
            calls.note("EventLoopShutdownError", request_id=self.request_id)
        else:
            self._loop.call_soon_threadsafe(self._aqueue.put_nowait, response)

    def _take(self, response):
        if response.error is not None:
            # Before `finished` is set, so that the caller has to abort (§2.4).
            raise RequestError(response.error)
        if not hasattr(self, "outputs"):  # 0.11
            self.token_ids = response.token_ids
            self.text = ""
        else:
            self._fill(self.outputs[0], response)
        self.finished = response.last

    def _fill(self, completion, response):
        completion.token_ids = response.token_ids
        completion.logprobs = response.logprobs
        if response.logprobs:
            completion.cumulative_logprob = sum(
                entry[token_id].logprob
                for token_id, entry in zip(
                    response.token_ids, response.logprobs, strict=False
                )
            )
        if hasattr(completion, "prompt_logprobs"):
            completion.prompt_logprobs = response.prompt_logprobs
        if response.last and hasattr(completion, "finish_reason"):
            completion.finish_reason = response.finish_reason
            completion.stop_reason = response.stop_reason

    def result(self, timeout=None):
        """Block to the end; the timeout is not applied (§2.4)."""
        while not self.finished:
            self._take(self._queue.get())
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.finished:
            raise StopIteration
        self._take(self._queue.get())
        return self

    def __aiter__(self):
        assert self._aqueue is not None, (
            "The asyncio event loop was not present during initialization, so async "
            "operations are not available."
        )
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        self._take(await self._aqueue.get())
        return self

    def cancel(self):
        """Raise: it exists and is not implemented (§2.4)."""
        raise NotImplementedError


class AbortableOutput(RequestOutput):
    """From 0.19 on (§2.4)."""

    def abort(self):
        calls.note("abort", request_id=self.request_id)
        self._aborted = True


def make_request_output():
    """Return the class of results."""
    return AbortableOutput if current().abort else RequestOutput


def trim(response, sampling_params):
    """Cut stop words, unless they are asked for, and never the EOS token (§2.4)."""
    keep = params.field(sampling_params, "include_stop_str_in_output", False)
    if response.stop_reason is not None and not keep:
        response.token_ids = response.token_ids[:-1]
        response.logprobs = response.logprobs[:-1]
    return response
