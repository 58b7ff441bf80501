# SPDX-License-Identifier: Apache-2.0

"""Endpoints that generate: a body becomes prompts and params, and outputs its answer.

The server and batch jobs both use these classes, so they take and answer the same.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import attrs
import msgspec
from typing_extensions import override

from ..errors import ConfigError
from ..params import SamplingParams
from .bodies import ChatBody, CompletionBody, SamplingBody
from .chat import ChatCompletion, ChatWriter, chat_prompt
from .completions import Completion, CompletionWriter, completion_prompts
from .parts import PartReader, ReasoningThenCalls
from .reading import Read, read
from .reasoning import REASONING_READERS
from .responses import ResponseWriter
from .responses_body import ResponsesBody, as_chat
from .sampling import chat_params, completion_params
from .tool_calls import CALL_READERS, call_reader, check_tools
from .writer import Answering, Writer, encode

_PROMPT_END = 32
"""Tokens at the end of a prompt in which its template may open the reasoning."""


@attrs.frozen(kw_only=True)
class AnswerSettings:
    """Settings that decide what an answer holds, whatever its request says.

    Raises:
        ConfigError: There is no parser of the name.
    """

    response_role: str = "assistant"
    """Role of a chat's answers."""
    trust_request_chat_template: bool = False
    """Whether a request may bring its chat template, which is a program."""
    override_generation_config: Mapping[str, Any] = attrs.field(factory=dict)
    """Fields of `SamplingParams` that replace the model's own defaults."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    enable_prompt_tokens_details: bool = False
    enable_force_include_usage: bool = False
    return_tokens_as_token_ids: bool = False

    def __attrs_post_init__(self) -> None:
        _check_name("--tool-call-parser", self.tool_call_parser, CALL_READERS)
        _check_name("--reasoning-parser", self.reasoning_parser, REASONING_READERS)

    def answering(
        self,
        body: SamplingBody,
        params: SamplingParams,
        *,
        request_id: str,
        created: int,
        model: str,
    ) -> Answering:
        """Return the facts that the answer of a request repeats."""
        return Answering(
            request_id=body.request_id or request_id,
            created=created,
            model=model,
            num_choices=params.n,
            cached_tokens=self.enable_prompt_tokens_details,
            always_usage=self.enable_force_include_usage,
            role=self.response_role,
            tokens_as_ids=self.return_tokens_as_token_ids,
        )


def _check_name(option: str, name: str | None, known: Collection[str]) -> None:
    if name is not None and name not in known:
        raise ConfigError(f"{option} {name} does not exist. Known: {', '.join(known)}.")


class Texts(Protocol):
    """**Protocol:** text to token ids and back; a `Generator` is one."""

    def tokenize(
        self, prompt: Any, *, add_special_tokens: bool | None = None
    ) -> list[int]:
        """Return the token ids of a prompt."""

    def detokenize(self, token_ids: Any) -> str:
        """Return the text of token ids, special tokens included."""


class Submitted(Protocol):
    """**Protocol:** a submitted prompt; a `RequestHandle` is one."""

    @property
    def prompt(self) -> str | None:
        """Text as it was tokenised."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Ids as the engine sees them."""


class Endpoint(abc.ABC):
    """One request of an endpoint that generates.

    Args:
        raw: The body, as JSON text.
        settings: Of the answers.

    Attributes:
        body: Fields that all endpoints have.
        ignored: Names of the fields that were accepted without effect.

    Raises:
        RequestError: The text is not a JSON object.
        InvalidParameterError: A field has the wrong type or is not honoured.
    """

    path: ClassVar[str]
    """Path of the endpoint's URL."""
    body: SamplingBody
    ignored: tuple[str, ...]

    def __init__(self, raw: bytes, settings: AnswerSettings) -> None:
        self._settings = settings
        self._read(raw)

    @abc.abstractmethod
    def _read(self, raw: bytes) -> None:
        """Set `body` and `ignored`."""

    @abc.abstractmethod
    def params(self, defaults: SamplingParams) -> SamplingParams:
        """Return the params.

        Args:
            defaults: The model's own and their overrides.

        Raises:
            InvalidParameterError: A value is impossible, or two contradict each other.
        """

    @abc.abstractmethod
    def prompts(self, texts: Texts) -> Callable[[], list[Any]]:
        """Check the prompts; return a function that prepares them for `submit`.

        The function may tokenise, which takes its time.

        Args:
            texts: Tokenizer of the model.

        Raises:
            InvalidParameterError: There is no prompt, or it has the wrong form.
        """

    @abc.abstractmethod
    def writer(
        self,
        answering: Answering,
        params: SamplingParams,
        submitted: Sequence[Submitted],
        texts: Texts,
    ) -> Writer:
        """Return the writer of the answer.

        Args:
            answering: Facts of the request.
            params: Those of `params`.
            submitted: One for each prompt, in order.
            texts: Tokenizer of the model.
        """

    @abc.abstractmethod
    def text_of(self, answer: Any) -> tuple[str, str | None]:
        """Return the text and the finish reason of the only choice of an answer.

        Args:
            answer: Of `Writer.whole`.
        """

    def fields_of_params(self) -> bytes:
        """Return JSON of all fields but the prompt; equal ones have equal params."""
        return encode(msgspec.structs.replace(self.body, **self._without_prompt))

    _without_prompt: ClassVar[Mapping[str, Any]] = MappingProxyType({"messages": []})

    def _reader(
        self, body: ChatBody, params: SamplingParams, submitted: Submitted, texts: Texts
    ) -> Callable[[], PartReader]:
        """Return a function that makes the reader of one answer."""
        parser = self._settings.tool_call_parser
        reasoning = self._settings.reasoning_parser
        # A constraint holds from the first token, so it leaves no room for reasoning.
        if reasoning is None or params.structured_outputs is not None:
            return lambda: call_reader(body, parser=parser)
        split = REASONING_READERS[reasoning]
        prompt_end = texts.detokenize(submitted.prompt_token_ids[-_PROMPT_END:])
        return lambda: ReasoningThenCalls(
            split(prompt_end), call_reader(body, parser=parser)
        )


class Completions(Endpoint):
    """``/v1/completions``."""

    path = "/v1/completions"
    body: CompletionBody
    _without_prompt = MappingProxyType({"prompt": None})

    @override
    def _read(self, raw: bytes) -> None:
        found: Read[CompletionBody] = read(raw, CompletionBody)
        self.body, self.ignored = found.body, found.ignored

    @override
    def params(self, defaults: SamplingParams) -> SamplingParams:
        return completion_params(self.body, defaults)

    @override
    def prompts(self, texts: Texts) -> Callable[[], list[Any]]:
        prompts: list[Any] = completion_prompts(self.body)
        if self.body.add_special_tokens is not False:
            return lambda: prompts
        return lambda: [_without_special_tokens(each, texts) for each in prompts]

    @override
    def writer(
        self,
        answering: Answering,
        params: SamplingParams,
        submitted: Sequence[Submitted],
        texts: Texts,
    ) -> Writer:
        decode = texts.detokenize

        def text_of(each: Submitted) -> str:
            if not self.body.echo:
                return ""  # never shown
            return each.prompt or decode(each.prompt_token_ids)

        return CompletionWriter(
            answering,
            self.body,
            prompts=[(text_of(each), each.prompt_token_ids) for each in submitted],
            decode=decode,
        )

    @override
    def text_of(self, answer: Completion) -> tuple[str, str | None]:
        [choice] = answer.choices
        return choice.text, choice.finish_reason


def _without_special_tokens(prompt: Any, texts: Texts) -> Any:
    if not isinstance(prompt, str):
        return prompt
    ids = texts.tokenize(prompt, add_special_tokens=False)
    return {"prompt_token_ids": ids, "prompt": prompt}


class Chats(Endpoint):
    """``/v1/chat/completions``."""

    path = "/v1/chat/completions"
    body: ChatBody

    @override
    def _read(self, raw: bytes) -> None:
        found: Read[ChatBody] = read(raw, ChatBody)
        self.body, self.ignored = found.body, found.ignored

    @override
    def params(self, defaults: SamplingParams) -> SamplingParams:
        check_tools(self.body, parser=self._settings.tool_call_parser)
        return chat_params(self.body, defaults)

    @override
    def prompts(self, texts: Texts) -> Callable[[], list[Any]]:
        trust = self._settings.trust_request_chat_template
        prompt = chat_prompt(self.body, trust_templates=trust)
        if not self.body.add_special_tokens:
            return lambda: [prompt]

        def prepared() -> list[Any]:
            ids = texts.tokenize(prompt, add_special_tokens=True)
            return [{"prompt_token_ids": ids}]

        return prepared

    @override
    def writer(
        self,
        answering: Answering,
        params: SamplingParams,
        submitted: Sequence[Submitted],
        texts: Texts,
    ) -> Writer:
        return ChatWriter(
            answering,
            self.body,
            prompt_token_ids=submitted[0].prompt_token_ids,
            make_reader=self._reader(self.body, params, submitted[0], texts),
        )

    @override
    def text_of(self, answer: ChatCompletion) -> tuple[str, str | None]:
        [choice] = answer.choices
        return choice.message.content or "", choice.finish_reason


class Responses(Endpoint):
    """``/v1/responses``."""

    path = "/v1/responses"

    @override
    def _read(self, raw: bytes) -> None:
        found: Read[ResponsesBody] = read(raw, ResponsesBody)
        self._own = found.body
        self._chat = self.body = as_chat(found.body)
        self.ignored = found.ignored

    @override
    def params(self, defaults: SamplingParams) -> SamplingParams:
        check_tools(self._chat, parser=self._settings.tool_call_parser)
        return chat_params(self._chat, defaults)

    @override
    def prompts(self, texts: Texts) -> Callable[[], list[Any]]:
        prompt = chat_prompt(self._chat, trust_templates=False)
        return lambda: [prompt]

    @override
    def writer(
        self,
        answering: Answering,
        params: SamplingParams,
        submitted: Sequence[Submitted],
        texts: Texts,
    ) -> Writer:
        return ResponseWriter(
            answering,
            self._own,
            chat=self._chat,
            params=params,
            reader=self._reader(self._chat, params, submitted[0], texts)(),
        )

    @override
    def text_of(self, answer: Any) -> tuple[str, str | None]:
        raise NotImplementedError("no row asks for it")


ENDPOINTS: Mapping[str, type[Endpoint]] = MappingProxyType(
    {each.path: each for each in (Completions, Chats, Responses)}
)
"""Each endpoint by its path."""
