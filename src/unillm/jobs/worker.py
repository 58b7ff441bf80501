# SPDX-License-Identifier: Apache-2.0

"""`LocalWorker`: answers lines with a `Generator` of this process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

import unillm

from ..artifacts.digests import digest_file
from ..artifacts.folder import MODEL_FILES, ArtifactFolder
from ..errors import (
    EngineError,
    GeneratorClosedError,
    InvalidParameterError,
    QueueFullError,
    UnillmError,
)
from ..protocol.bodies import SamplingBody
from ..protocol.endpoints import ENDPOINTS, AnswerSettings, Endpoint
from ..protocol.errors import ApiError, ErrorReply, error_reply
from ..protocol.models import Models
from ..resolve import resolve
from .line import Answer, Line

if TYPE_CHECKING:
    from .. import Generator, RequestHandle, RequestOutput, SamplingParams

MAX_UNDER_WAY = 2048
"""Lines that are submitted and have not ended, on an engine with fewer slots. A long
queue lets a scheduler choose, and feeds the engine while this process writes."""

_FOR_ALL = (EngineError, GeneratorClosedError)
"""Errors that end a job."""

_SPEED_ONLY = frozenset(
    {
        "model",
        "path",
        "sources",
        "backend",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_queued_requests",
        "max_queued_tokens",
        "step_timeout_s",
        "enforce_eager",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
        "gpu_memory_utilization",
        "enable_prefix_caching",
        "backend_options",
        "max_loras",
    }
)
"""Fields of `EngineConfig` that change no answer, or that `identity` has otherwise."""

_MODEL_FILES = (*MODEL_FILES, "*.bin", "*.engine", "*.gguf")

_MAX_KNOWN_PARAMS = 256

_NOT_IN_ROWS: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "prompt_logprobs": (None,),
    "return_token_ids": (None, False),
    "tools": (None,),
}
"""Fields whose answers a row has no column for, with the values that ask for none."""

_encode = msgspec.json.Encoder().encode


@attrs.define(eq=False)
class _Asked:
    """A line under way."""

    worker: LocalWorker
    line: Line
    endpoint: Endpoint
    params: SamplingParams
    model: str
    num_prompts: int
    handles: list[RequestHandle] = attrs.field(factory=list)
    num_ended: int = 0

    def ended(self, _: RequestHandle) -> None:
        """Note that one of its prompts has ended, on any thread."""
        self.worker.ended.put(self)


class LocalWorker:
    """Answers lines with a `Generator` of this process.

    Args:
        model: Directory, hub id or the bundled ``unillm/tiny``; or a `Generator`, which
            stays open.
        settings: Of the answers; `None` for the server's defaults.
        served_model_name: Names that a line may call the model by, besides *model*.
        lora_modules: Directory of each adapter, by the name that lines call it.
        options: Of `Generator`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Generator,
        *,
        settings: AnswerSettings | None = None,
        served_model_name: Sequence[str] = (),
        lora_modules: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._settings = settings or AnswerSettings()
        self._given: Generator | None = None
        self._generator: Generator | None = None
        if isinstance(model, (str, os.PathLike)):
            self._model = os.fspath(model)
            if lora_modules:
                options.setdefault("enable_lora", True)
            self._config = resolve(self._model, **options)
            config, self._backend = self._config.config, self._config.backend.name
        else:
            self._given = model
            config, self._backend = model.config, model.backend
            self._model = config.model
        self._options = options
        names = [*served_model_name, *({self._model} - {*served_model_name})]
        self._models = Models(names, self._model, lora_modules or {}, int(time.time()))
        self._lora = dict(lora_modules or {})
        self._engine_config = config
        self._params: dict[bytes, SamplingParams] = {}
        self._under_way: dict[int, _Asked] = {}
        self._refused: list[Answer] = []
        self._death: UnillmError | None = None
        self.ended: SimpleQueue[_Asked] = SimpleQueue()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The content of all files of the model, the backend and the options."""
        config = self._engine_config
        changed = {
            field.name: getattr(config, field.name)
            for field in attrs.fields(type(config))
            if field.name not in _SPEED_ONLY
            and getattr(config, field.name) != _default(field)
        }
        return {
            "model": self._model,
            "model files": _digests(config.path),
            "tokenizer files": _digests(config.tokenizer),
            "backend": self._backend,
            "options": {name: _plain(value) for name, value in changed.items()},
            "backend options": _plain(dict(config.backend_options)),
            "answers": _plain(attrs.asdict(self._settings)),
            "adapters": {name: _digests(path) for name, path in self._lora.items()},
            "served names": [card.id for card in self._models.cards()],
        }

    @property
    def generator(self) -> Generator:
        """The generator, after `open`."""
        assert self._generator is not None, "the worker is not open"
        return self._generator

    @property
    def capacity(self) -> int:
        """Lines that fill the engine's slots, and as many that wait."""
        return max(MAX_UNDER_WAY, 2 * self.generator.limits.max_num_seqs)

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that fits."""
        return self.generator.limits.longest_prompt

    def open(self) -> None:
        """Load the model."""
        self._generator = self._given or unillm.Generator(self._model, **self._options)
        defaults = self._generator.get_default_sampling_params()
        overrides = self._settings.override_generation_config
        self._defaults = attrs.evolve(defaults, **overrides)

    def submit(self, line: Line) -> None:
        """Begin a line; see `Worker.submit`."""
        try:
            self._start(line)
        except (*_FOR_ALL, QueueFullError):
            raise
        except (UnillmError, ApiError) as error:
            self._refused.append(failed(line, error_reply(error)))

    def count_tokens(self, line: Line) -> tuple[list[int], str | None]:
        """Return the tokens of each prompt of a line, without submitting it.

        The second value is the reason why the line would be refused; `None` if it
        would not.
        """
        limit = self.max_prompt_tokens
        counts: list[int] = []
        try:
            endpoint = self._read(line)
            params = self._params_of(endpoint)
            tokenize = self.generator.tokenize
            prompts = endpoint.prompts(self.generator)()
            counts.extend(len(tokenize(prompt)) for prompt in prompts)
        except _FOR_ALL:
            raise
        except (UnillmError, ApiError) as error:
            return counts, error_reply(error).message
        longest = max(counts, default=0)
        if params.truncate_prompt_tokens is None and longest > limit:
            return counts, f"the prompt has {longest} tokens; at most {limit} fit."
        return counts, None

    def _read(self, line: Line) -> Endpoint:
        kind = ENDPOINTS.get(line.url)
        if kind is None:
            raise ApiError(
                ErrorReply(
                    404,
                    f"There is no endpoint {line.url[:80]!r}. A line may name "
                    f"{', '.join(ENDPOINTS)}.",
                    param="url",
                )
            )
        endpoint = kind(line.body, self._settings)
        body = endpoint.body
        if body.stream:
            raise InvalidParameterError(
                "stream: true has no meaning in a batch file. Leave it out.",
                parameter="stream",
                value=True,
            )
        if line.is_row:
            _check_row(body)
        self._models.find(body.model)
        return endpoint

    def _start(self, line: Line) -> None:
        endpoint = self._read(line)
        body = endpoint.body
        served = self._models.find(body.model)
        params = self._params_of(endpoint)
        if params.seed is None and not params.greedy:
            params = attrs.evolve(params, seed=line.seed)
        prompts = endpoint.prompts(self.generator)()
        asked = _Asked(self, line, endpoint, params, served.name, len(prompts))
        try:
            for prompt in prompts:
                asked.handles.append(
                    self.generator.submit(
                        prompt,
                        params,
                        lora_request=served.adapter,
                        priority=body.priority or 0,
                        timeout_s=body.timeout_s,
                    )
                )
        except BaseException:
            for handle in asked.handles:
                handle.cancel()
            raise
        self._under_way[line.index] = asked
        for handle in asked.handles:
            handle.add_done_callback(asked.ended)

    def _params_of(self, endpoint: Endpoint) -> SamplingParams:
        """Return the params; most lines of a file have the same."""
        key = type(endpoint).path.encode() + endpoint.fields_of_params()
        found = self._params.get(key)
        if found is None:
            found = endpoint.params(self._defaults)
            if len(self._params) >= _MAX_KNOWN_PARAMS:
                self._params.clear()
            self._params[key] = found
        return found

    def answers(self, timeout_s: float | None) -> Sequence[Answer]:
        """Return the answers of lines that have ended; see `Worker.answers`."""
        found, self._refused = self._refused, []
        if self._death is not None and not found:
            raise self._death
        ended = self.ended
        try:
            if not found and timeout_s != 0:
                self._note(ended.get(timeout=timeout_s), found)
            while not ended.empty():
                self._note(ended.get_nowait(), found)
        except Empty:
            pass
        except _FOR_ALL as error:
            if not found:
                raise
            self._death = error  # what ended before it is an answer
        return found

    def _note(self, asked: _Asked, found: list[Answer]) -> None:
        asked.num_ended += 1
        if asked.num_ended == asked.num_prompts:
            self._under_way.pop(asked.line.index, None)
            found.append(self._answer(asked))

    def _answer(self, asked: _Asked) -> Answer:
        line, endpoint = asked.line, asked.endpoint
        try:
            outputs = [handle.result(0) for handle in asked.handles]
            answering = self._settings.answering(
                endpoint.body,
                asked.params,
                request_id=line.request_id,
                created=line.created,
                model=asked.model,
            )
            writer = endpoint.writer(
                answering, asked.params, asked.handles, self.generator
            )
            body = writer.whole(outputs)
        except _FOR_ALL:
            raise
        except UnillmError as error:
            return failed(line, error_reply(error))
        counts = _counts(outputs)
        if not line.is_row:
            return Answer(line.index, 200, _encode(body), None, None, *counts)
        text, reason = endpoint.text_of(body)
        return Answer(line.index, 200, b"", text, reason, *counts)

    def stats(self) -> Mapping[str, Any]:
        """Return ``slots`` and ``running`` of the engine."""
        stats = self.generator.stats()
        engine = stats["engine"]
        running = engine.get("running", stats["live"] - stats["queued"])
        slots = engine.get("num_slots", self.generator.limits.max_num_seqs)
        return {"slots": slots, "running": running}

    def close(self) -> None:
        """Cancel the lines under way, and close a generator that this worker made."""
        for asked in self._under_way.values():
            for handle in asked.handles:
                handle.cancel()
        self._under_way.clear()
        generator, self._generator = self._generator, None
        if generator is not None and self._given is None:
            generator.close()


def failed(line: Line, reply: ErrorReply) -> Answer:
    """Return the answer to a line that failed."""
    return Answer(line.index, reply.status, _encode(reply.body()))


def _counts(outputs: Sequence[RequestOutput]) -> tuple[int, int]:
    return (
        sum(len(each.prompt_token_ids) for each in outputs),
        sum(len(one.token_ids) for each in outputs for one in each.outputs),
    )


def _check_row(body: SamplingBody) -> None:
    for name, harmless in _NOT_IN_ROWS.items():
        value = getattr(body, name, None)
        if value not in harmless:
            raise InvalidParameterError(
                f"A row of the output has one text, so {name} has no place in it. "
                "Leave it out, or give lines of OpenAI's batch format, whose output "
                "has the whole answer.",
                parameter=name,
                value=value,
            )


def _digests(source: Any) -> dict[str, str]:
    """Return the digests of a model, an adapter or a tokenizer; none of an object."""
    if not isinstance(source, (str, os.PathLike)):
        return {}
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return ArtifactFolder().digest_model(path, _MODEL_FILES)
    return {path.name: digest_file(path)} if path.is_file() else {}


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; an object becomes its `repr`."""
    return msgspec.to_builtins(value, enc_hook=repr, str_keys=True)
