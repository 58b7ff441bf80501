# SPDX-License-Identifier: Apache-2.0

"""`RequestMaker`: from a caller's prompt and params to a checked `RequestHandle`.

Everything that can be wrong with a request is found here, before an engine sees it.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from ..engines.aspects import ASPECTS, aspects_of
from ..engines.base import SAMPLING_FIELDS, Capabilities, EngineRequest, Support
from ..errors import (
    InvalidParameterError,
    ModelError,
    PromptTypeError,
    UnsupportedParameterError,
)
from ..fields import as_seconds, refuse
from ..lora import KnownAdapters, LoRALike, LoRARequest, as_adapter
from ..model.positions import model_positions
from ..params import SamplingParams
from ..text.grammar import GrammarCompiler
from ..text.prompts import (
    PlainText,
    RenderedText,
    TokenIds,
    checked_ids,
    normalise,
    prepare,
    tokenise,
    tokenise_bad_words,
)
from .arguments import ParamsLike, PriorityLike
from .chat_prompts import CHAT_OPTIONS, ChatPrompt
from .completion import Completion
from .handle import RequestHandle
from .lazy_calls import are_for_all, params_of_each
from .owner import Owner

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..engines.backend import Backend
    from ..engines.base import EngineLimits, TokenGrammar
    from ..text.loading import ModelText
    from ..text.prompts import Prompt

T = TypeVar("T")

_OF_DRAWS = frozenset({"temperature", "top_p", "top_k", "min_p", "seed"})
"""Fields that do nothing in a greedy request."""


@attrs.define(eq=False, slots=False)
class RequestMaker:
    """Checks requests for one engine and numbers them. Submits nothing."""

    config: EngineConfig
    text: ModelText
    limits: EngineLimits
    capabilities: Capabilities = attrs.field(kw_only=True)
    backend: str = attrs.field(default="", kw_only=True)
    """Name of the engine's backend, for messages."""
    backends: Callable[[], Iterable[Backend]] = attrs.field(default=tuple, kw_only=True)
    """Returns the installed backends, for messages about unsupported fields."""
    compile_structures: bool = attrs.field(default=True, kw_only=True)
    """Whether structured outputs must be compiled here: `Engine.compiles_structures` is
    false. Otherwise they are compiled where llguidance is installed, so that a wrong
    one is refused before the engine has it."""
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    timeout_s: float | None = attrs.field(default=None, kw_only=True)
    """Timeout of requests that set none; `None` gives them no deadline."""
    max_tokens: int | None = attrs.field(default=None, kw_only=True)
    """`max_tokens` of params that set none; `None` for what the context holds."""

    def __attrs_post_init__(self) -> None:
        self._seeds = random.Random(self.config.seed)
        self._numbers = itertools.count()  # next() on it is atomic
        self._owner = Owner()
        self._last_copy = SamplingParams()
        self._unsupported = {
            name: found
            for name in sorted(SAMPLING_FIELDS)
            if (found := self.capabilities.of(name)).support is Support.UNSUPPORTED
        }
        self._adapters = KnownAdapters(max_rank=self.config.max_lora_rank)
        self._grammars = GrammarCompiler(
            self.text.tokenizer,
            vocab_size=self.limits.vocab_size,
            eos_ids=self.text.eos.ids,
        )

    @functools.cached_property
    def _positions(self) -> int | None:
        """Return the context that the model was made for; `None` if it names none."""
        try:
            return model_positions(self.config.path)
        except ModelError:  # an engine elsewhere, which may lack the model's files
            return None

    def makers(
        self,
        prompts: Sequence[Any],
        params: ParamsLike,
        lora_request: LoRALike,
        priority: PriorityLike,
        timeout_s: float | None,
    ) -> Iterator[Callable[[], RequestHandle]]:
        """Return a function for each prompt that makes its handle, for a list call.

        A value for all prompts is checked here. The entry of a list is checked with its
        prompt, so that it fails alone.

        Raises:
            InvalidParameterError: A value for all prompts is invalid, or a list has
                more or fewer entries than there are prompts.
        """
        self._deadline(timeout_s)
        count = len(prompts)
        shared = not isinstance(params, (list, tuple))

        def make(
            prompt: Any, own: Any, adapter: LoRARequest | None, own_priority: int
        ) -> RequestHandle:
            # The prompt first: of several errors, its own is raised.
            return self._make(
                self._as_prompt(prompt),
                own if shared else self._copied(own),
                as_adapter(adapter),
                own_priority,
                timeout_s,
            )

        each = zip(
            prompts,
            one_for_each("params", params, count, self._copied_or_default),
            one_for_each("lora_request", lora_request, count, as_adapter),
            one_for_each("priority", priority, count, _as_priority),
            strict=True,
        )
        return (partial(make, *one) for one in each)

    def lazy_makers(
        self,
        prompts: Iterable[Any],
        params: SamplingParams | Iterable[SamplingParams] | None,
        lora_request: LoRARequest | None,
        priority: int,
        timeout_s: float | None,
    ) -> Iterator[Callable[[], RequestHandle]]:
        """Return the same for prompts that are read one by one.

        Raises:
            InvalidParameterError: A value for all prompts is invalid; or, while
                iterating, there are fewer params than prompts.
        """
        if are_for_all(params):
            self._copied_or_default(params)
        as_adapter(lora_request)
        _as_priority(priority)
        self._deadline(timeout_s)
        each = zip(prompts, params_of_each(params), strict=False)
        return (
            partial(self.make, prompt, own, lora_request, priority, timeout_s)
            for prompt, own in each
        )

    def make(
        self,
        prompt: Any,
        params: SamplingParams | None,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> RequestHandle:
        """Check one request and return its handle.

        The arguments are those of `Generator.submit`; *prompt* may be a `ChatPrompt`.

        Raises:
            RequestError: The request is refused.
        """
        return self._make(
            self._as_prompt(prompt),
            self._copied_or_default(params),
            as_adapter(lora_request),
            priority,
            timeout_s,
        )

    def _make(
        self,
        prompt: Prompt,
        params: SamplingParams,
        lora_request: LoRARequest | None,
        priority: int,
        timeout_s: float | None,
    ) -> RequestHandle:
        self._check_logprobs(params)
        labels = params.logprob_token_ids
        computed = params  # by the engine
        if labels is not None:
            computed = attrs.evolve(params, logprobs=-1, logprob_token_ids=None)
        self._check_supported(computed, labels)
        self._check_feature("extra_args", params.extra_args)
        self._check_feature("cache_salt", prompt.cache_salt)
        adapter = lora_request and self._check_adapter(lora_request)
        priority = _as_priority(priority)
        deadline = self._deadline(timeout_s)
        prepared = prepare(
            prompt,
            self.text.tokenizer,
            self.limits,
            params,
            strict_length=self.config.strict_length,
            positions=lambda: self._positions,
            max_tokens=self.max_tokens,
        )
        by_default = not (params.sets_max_tokens or params.ignore_eos)
        if params is self.text.defaults.params:  # the caller's are copies
            by_default = True
            prepared, params = self.text.defaults.fit(prepared, params)
        params = params if labels is None else computed
        if params.min_tokens > prepared.max_new_tokens:  # fitted with `max_tokens`
            params = attrs.evolve(params, min_tokens=prepared.max_new_tokens)
        stop_token_ids = frozenset() if params.ignore_eos else self.text.eos.ids
        if params.stop_token_ids:  # else all requests share one set
            stop_token_ids = stop_token_ids.union(params.stop_token_ids)
        bad_words = tokenise_bad_words(
            params.bad_words, self.text.tokenizer, self.limits.vocab_size
        )
        grammar = self._grammar(params)
        number = next(self._numbers)
        first = EngineRequest(
            request_id=f"{number}-0",
            prompt_token_ids=prepared.token_ids,
            params=params,
            stop_token_ids=stop_token_ids,
            max_new_tokens=prepared.max_new_tokens,
            seed=self._seeds.getrandbits(63) if params.seed is None else params.seed,
            priority=priority,
            arrival=number,
            bad_words_token_ids=bad_words,
            logprob_token_ids=None if labels is None else tuple(labels),
            grammar=grammar,
            cache_salt=prompt.cache_salt,
            lora_request=adapter,
        )
        self._check_aspects(first)
        return RequestHandle(
            request_id=str(number),
            prepared=prepared,
            completions=[
                Completion(
                    request=request,
                    index=index,
                    tokenizer=self.text.tokenizer,
                    primary_eos=self.text.eos.primary,
                    lora_request=lora_request,
                )
                for index, request in enumerate(_completions_of(first))
            ],
            deadline=deadline,
            owner=self._owner,
            limited_by_default=by_default,
        )

    def token_ids(
        self, prompt: Any, *, add_special_tokens: bool | None
    ) -> tuple[int, ...]:
        """Return the ids of a prompt; `Generator.tokenize` has the arguments."""
        normal = self._as_prompt(prompt)
        if isinstance(normal, TokenIds):
            return tuple(checked_ids(normal.token_ids, self.limits.vocab_size))
        if add_special_tokens is not None:
            kind = PlainText if add_special_tokens else RenderedText
            normal = kind(normal.text)
        return tuple(tokenise(normal, self.text.tokenizer))

    # -------------------------------------------------------------------------- checks

    def _copied_or_default(self, params: Any) -> SamplingParams:
        return self.text.defaults.check() if params is None else self._copied(params)

    def _copied(self, params: Any) -> SamplingParams:
        """Return a copy, checked as a whole, that later assignments do not change.

        Requests whose params are equal, one after the other, share it: a copy costs
        more than all that a batch job does for a line.
        """
        if not isinstance(params, SamplingParams):
            raise InvalidParameterError(
                f"params must be SamplingParams, got {type(params).__name__}. Write "
                "SamplingParams(temperature=0, max_tokens=100), for example.",
                parameter="params",
                value=params,
            )
        copy = self._last_copy  # another thread may replace it meanwhile
        # Values of `extra_args` are of any kind, which may not compare.
        if params.extra_args is not None or params != copy:
            self._last_copy = copy = attrs.evolve(params)
        return copy

    def _as_prompt(self, prompt: Any) -> Prompt:
        if isinstance(prompt, Mapping) and "messages" in prompt:
            options = {key: prompt[key] for key in prompt if key != "messages"}
            if unknown := sorted(map(str, options.keys() - CHAT_OPTIONS.keys())):
                raise PromptTypeError(
                    f"A prompt of messages has the unknown keys {', '.join(unknown)}; "
                    f'beside "messages" it takes {", ".join(CHAT_OPTIONS)}.'
                )
            prompt = ChatPrompt.of(prompt["messages"], options)
        if not isinstance(prompt, ChatPrompt):
            return normalise(prompt)
        template = prompt.arguments.get("chat_template") or self.config.chat_template
        arguments = {**prompt.arguments, "chat_template": template}
        return RenderedText(
            self.text.tokenizer.apply_chat_template(prompt.messages, **arguments)
        )

    def _check_logprobs(self, params: SamplingParams) -> None:
        limit, own = self.config.max_logprobs, self.limits.max_logprobs
        labels = params.logprob_token_ids
        if labels is not None and own is not None:
            reason = ": its engine returns those of the most probable tokens alone"
            raise self._cannot("logprob_token_ids", labels, reason, "logprobs.top")
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name) or 0
            if own is not None and (asked == -1 or asked > own):
                raise self._cannot(name, asked, f": its engine returns at most {own}")
            if limit != -1 and (asked == -1 or asked > limit):
                raise InvalidParameterError(
                    f"{name}={asked} is more than this generator's max_logprobs="
                    f"{limit}. Ask for fewer, or create the Generator with a larger "
                    "max_logprobs.",
                    parameter=name,
                    value=asked,
                )

    def _check_supported(
        self, params: SamplingParams, labels: Sequence[int] | None
    ) -> None:
        for name, capability in self._unsupported.items():
            if name in _OF_DRAWS and params.greedy:
                continue
            # Every temperature but 0 draws, its default too.
            if name == "temperature" or not params.is_default(name):
                asked = _asked(name, params, labels)
                raise self._cannot(*asked, f": {capability.reason}", name)

    def _check_aspects(self, request: EngineRequest) -> None:
        for aspect in aspects_of(request, vocab_size=self.limits.vocab_size):
            capability = self.capabilities.of(aspect)
            if capability.support is not Support.UNSUPPORTED:
                continue
            name = aspect.partition(".")[0]
            asked = _asked(name, request.params, request.logprob_token_ids)
            reason = f" here, {ASPECTS[aspect]}: {capability.reason}"
            raise self._cannot(*asked, reason, aspect)

    def _check_adapter(self, lora_request: LoRARequest) -> LoRARequest:
        """Return the adapter as an engine takes it."""
        capability = self.capabilities.of("lora")
        reason = ""
        if capability.support is Support.UNSUPPORTED:
            reason = f"{capability.reason}. {self._others_with('lora')}"
        elif not self.config.enable_lora:
            reason = "adapters are off. Create the Generator with enable_lora=True."
        if reason:
            raise UnsupportedParameterError(
                f"The backend {self.backend!r} cannot honour lora_request="
                f"{lora_request.lora_name!r} here: {reason}",
                parameter="lora_request",
                value=lora_request,
            )
        return self._adapters.check(lora_request)

    def _check_feature(self, name: str, value: Any) -> None:
        capability = self.capabilities.of(name)
        if value is not None and capability.support is Support.UNSUPPORTED:
            raise self._cannot(name, value, f": {capability.reason}")

    def _cannot(
        self, name: str, value: Any, reason: str, capability: str = ""
    ) -> UnsupportedParameterError:
        """Return the error for a value; it names the backends that honour it."""
        return UnsupportedParameterError(
            f"The backend {self.backend!r} cannot honour {name}={value!r}{reason}. "
            f"{self._others_with(capability or name)}",
            parameter=name,
            value=value,
        )

    def _others_with(self, field: str) -> str:
        names = [
            backend.name
            for backend in self.backends()
            if backend.name != self.backend
            and backend.capabilities.of(field).support is not Support.UNSUPPORTED
        ]
        if not names:
            return "No other installed backend can either."
        return f"These backends can: {', '.join(names)}."

    def _grammar(self, params: SamplingParams) -> TokenGrammar | None:
        """Return the compiled structure for an engine that needs the core's.

        The core compiles it for every engine, so that its errors and limits are the
        same on all of them.
        """
        if params.structured_outputs is None:
            return None
        if not (self.compile_structures or GrammarCompiler.is_installed()):
            return None
        compiled = self._grammars.compile(params.structured_outputs)
        support = self.capabilities.of("structured_outputs").support
        return compiled if support is Support.EMULATED else None

    def _deadline(self, timeout_s: float | None) -> float | None:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        seconds = as_seconds("timeout_s", timeout_s, positive=True)
        return None if seconds is None else self.clock() + seconds


def _asked(
    name: str, params: SamplingParams, labels: Sequence[int] | None
) -> tuple[str, Any]:
    """Return a field as the caller asked for it, and its value."""
    if name == "logprobs" and labels is not None:
        return "logprob_token_ids", list(labels)
    return name, getattr(params, name)


def _completions_of(first: EngineRequest) -> Iterable[EngineRequest]:
    """Yield the `n` engine requests of a prompt, each with a seed of its own."""
    yield first
    params = first.params
    if params.n > 1 and params.prompt_logprobs is not None:
        params = attrs.evolve(params, prompt_logprobs=None)  # the first has them
    for index in range(1, params.n):
        yield attrs.evolve(
            first,
            request_id=f"{first.arrival}-{index}",
            params=params,
            seed=first.seed + index,
        )


def one_for_each(
    name: str, value: Any, count: int, check: Callable[[Any], T]
) -> Iterable[T]:
    """Return a value for each of *count* prompts: a checked one, or those of a list."""
    if not isinstance(value, (list, tuple)):
        return itertools.repeat(check(value), count)
    if len(value) != count:
        raise InvalidParameterError(
            f"There are {count} prompts and {len(value)} {name} values. Pass one for "
            "all prompts, or a list with one for each.",
            parameter=name,
            value=len(value),
        )
    return value


def _as_priority(priority: Any) -> int:
    try:
        return operator.index(priority)
    except TypeError:
        raise refuse("priority", "an integer", priority) from None
