# SPDX-License-Identifier: Apache-2.0

"""`LLM`: vLLM's offline class, on any backend.

A program for vLLM changes ``from vllm import …`` to ``from unillm import …`` and
nothing else. A member of vLLM's class that this class does not have is refused with
the replacement.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from typing_extensions import Self

from ..config import BACKEND_VARIABLE
from ..errors import (
    ConfigError,
    InvalidParameterError,
    InvalidPromptError,
    RequestsFailedError,
    UnsupportedParameterError,
)
from ..generator import Generator, open_generator
from ..lora import LoRALike
from ..outputs import RequestOutput
from ..params import SamplingParams
from ..process.registry import BackendRegistry
from ..resolve import resolve
from ..runtime.arguments import ParamsLike, PriorityLike, UseTqdm
from ..text.generation_config import read_defaults
from ..text.prompts import Conversation, Prompts, as_prompts, is_empty
from . import structures
from .beam_search import (
    BeamSearcher,
    BeamSearchOutput,
    BeamSearchParams,
    as_beam_params,
)
from .engine_args import (
    GENERATOR_OPTIONS,
    TUNING,
    VLLM,
    refuse_unknown,
    stated_arguments,
    taken_arguments,
)
from .engine_view import ModelConfig, metrics_of
from .foreign import taken_adapters, taken_params
from .names import UNAVAILABLE_MEMBERS
from .stepping import SteppedEngine
from .token_texts import TokenTexts
from .tokenization import as_changes, with_special_tokens
from .v1.metrics.reader import Metric

MAX_TOKENS = 16
"""`max_tokens` of vLLM's params that set none."""


class LLM:
    """vLLM's offline class over a `Generator`: the same calls, on any backend.

    The backend is, in this order: the argument *backend*, the environment's
    ``UNILLM_BACKEND``, vLLM if it can run here, the best that can. A program that names
    no backend runs unchanged on every one of them.

    Several threads may call one `LLM`, Ctrl-C leaves no request queued, and a refused
    prompt leaves the others of its call running. The generator is closed when the `LLM`
    is collected or the process ends; a ``with`` block closes it at once.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Name of the backend, or "auto" for the best that can run here.
        backend_options: Options that only the chosen backend knows.
        chat_template: A template or, as in vLLM, the path of its file; or the name of
            one of the tokenizer's; `None` for the tokenizer's default.
        generation_config: Source of the sampling defaults: "auto" or `None` for the
            model, "vllm" for vLLM's neutral values, or a directory that has a
            ``generation_config.json``.
        override_generation_config: Fields of a ``generation_config.json`` that replace
            those of the source.
        options: Options of `Generator`, and every argument of vLLM's ``EngineArgs``
            under its name. The backend honours the argument; or the argument changes no
            result, such as cache sizes and logs, and a backend without it leaves it
            out; or the argument is refused with the reason. `None` and vLLM's own
            default mean "not given".

    Raises:
        UnknownArgumentError: An option does not exist; a `TypeError` that names the
            nearest.
        ConfigError: An option has an invalid value, or the backend does not honour it.
        ModelError: The model cannot be found, read or served.
        BackendError: The backend does not exist or cannot run here.
        EngineOutOfMemoryError: The model or its cache does not fit.
    """

    __module__ = "unillm"

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        backend: str | None = None,
        backend_options: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        generation_config: str | None = "auto",
        override_generation_config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        registry = BackendRegistry(options.get("python"))
        has_vllm = VLLM in registry.names() and registry.status(VLLM).available
        if backend is None and has_vllm and not os.environ.get(BACKEND_VARIABLE):
            backend = VLLM
        stated = stated_arguments(options, model)
        self._only_ids = bool(stated.pop("skip_tokenizer_init", False))
        if not has_vllm:  # else vLLM refuses them: it may be newer than our record
            refuse_unknown(stated)
        if stated.get("max_model_len") == -1:  # vLLM: what the memory allows
            del stated["max_model_len"]
        overrides = _as_dict("override_generation_config", override_generation_config)
        own = _as_dict("backend_options", backend_options)
        base = _base_defaults(generation_config)
        if remarks := read_defaults(overrides).remarks:
            raise ConfigError(f"override_generation_config: {'; '.join(remarks)}.")
        found = resolve(
            model,
            backend,
            registry=registry,
            chat_template=_template_text(chat_template),
            **_pop(stated, GENERATOR_OPTIONS - TUNING),
        )
        config = stated.get(structures.ARGUMENT, {})
        own_json = found.backend.name == VLLM  # vLLM does it itself
        json_options = {} if own_json else structures.options_of_json(config)
        self._json_options = json_options or {}
        taken = taken_arguments(stated, found.backend)
        found = found.with_options(
            **_pop(taken, GENERATOR_OPTIONS),
            backend_options={**taken, **own},
        )
        self._generator = open_generator(found, max_tokens=MAX_TOKENS)
        self._token_texts = TokenTexts(self._generator.get_tokenizer())
        self._llm_engine = SteppedEngine(
            self._generator, json_options=self._json_options
        )
        # Programs for vLLM do not close.
        weakref.finalize(self, self._generator.__exit__)
        base = base or self._generator.get_default_sampling_params()
        self._default_params = read_defaults(overrides, base=base).check()

    @classmethod
    def from_engine_args(cls, engine_args: Any) -> Self:
        """Create an `LLM` from an ``EngineArgs`` object of an installed vLLM."""
        return cls(**vars(engine_args))

    @property
    def llm_engine(self) -> SteppedEngine:
        """Facts about model and tokenizer, and requests that a program steps itself."""
        return self._llm_engine

    @property
    def model_config(self) -> ModelConfig:
        """The model's context, vocabulary, dtype and configuration."""
        return ModelConfig(self._generator)

    def get_metrics(self) -> list[Metric]:
        """Return the counters of the generator under vLLM's names.

        They count requests and tokens. `Generator.stats` has more, under names of its
        own.
        """
        return metrics_of(self._generator.stats(), self._generator.config.model)

    @property
    def generator(self) -> Generator:
        """The generator under this `LLM`, which also streams and serves event loops."""
        return self._generator

    def get_tokenizer(self) -> Any:
        """Return the tokenizer object itself."""
        return self._generator.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """Return a copy of the params of a call that passes none."""
        params = attrs.evolve(self._default_params)
        if not params.sets_max_tokens:
            params.max_tokens = max(MAX_TOKENS, params.min_tokens)
        return params

    # --------------------------------------------------------------------- generating

    def generate(
        self,
        prompts: Prompts,
        sampling_params: ParamsLike = None,
        *,
        use_tqdm: UseTqdm = True,
        lora_request: LoRALike = None,
        priority: PriorityLike | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Generate for one prompt or many, and wait.

        Args:
            prompts: A text; a list of token ids; a `TextPrompt` or `TokensPrompt`; or a
                list of any of these.
            sampling_params: One for all prompts, a list with one for each, or `None`
                for the model's own defaults. Without `max_tokens`, an answer has vLLM's
                16 tokens at most; a warning says so once if that cut one.
            use_tqdm: Show a progress bar; or a callable that makes one.
            lora_request: One adapter for all, a list with one or `None` for each.
            priority: Lower is sooner; one for all or a list with one for each.
            tokenization_kwargs: May hold ``truncate_prompt_tokens``,
                ``add_special_tokens``, and vLLM's other keys with values that change
                nothing.
            mm_processor_kwargs: `None`, because prompts are text and token ids.

        Returns:
            A list of `RequestOutput` in the order of the prompts, also for one prompt.

        Raises:
            RequestError: The only prompt failed.
            RequestsFailedError: Some of several failed; it carries the others' results,
                and is a `ValueError` too if each was refused for its prompt or params.
            EngineDeadError: The engine died.
            GeneratorClosedError: The LLM is closed.
        """
        if self._only_ids:
            _refuse_texts(prompts)
        changes = as_changes(tokenization_kwargs, special_tokens=True)
        return self._with_vllms_texts(
            self._generator.generate,
            with_special_tokens(prompts, tokenization_kwargs),
            self._params(sampling_params, changes, mm_processor_kwargs),
            use_tqdm=use_tqdm,
            lora_request=taken_adapters(lora_request),
            priority=0 if priority is None else priority,
        )

    def beam_search(
        self,
        prompts: Prompts,
        params: BeamSearchParams,
        lora_request: LoRALike = None,
        use_tqdm: UseTqdm = False,  # noqa: ARG002 - vLLM's signature
        concurrency_limit: int | None = None,  # noqa: ARG002
    ) -> list[BeamSearchOutput]:
        """Search for the most probable continuations, a call for each token.

        Args:
            prompts: A prompt or a list of prompts, as for `generate`.
            params: Width and length of the search.
            lora_request: One adapter for all, or a list with one or `None` for each.
            use_tqdm: Has no effect.
            concurrency_limit: Has no effect: the engine schedules the beams.

        Returns:
            A `BeamSearchOutput` for each prompt, its sequences best first.

        Raises:
            RequestError: The only prompt failed.
            RequestsFailedError: Some of several failed; none is searched.
            InvalidParameterError: ``2 * beam_width`` is more than `max_logprobs`.
        """
        listed = as_prompts(prompts)
        adapters = taken_adapters(lora_request)
        if not isinstance(adapters, list):
            adapters = [adapters] * len(listed)
        if len(adapters) != len(listed):
            raise InvalidParameterError(
                f"There are {len(listed)} prompts and {len(adapters)} lora_request "
                "values. Pass one for all prompts, or a list with one for each.",
                parameter="lora_request",
                value=len(adapters),
            )
        searcher = BeamSearcher(self._generator, as_beam_params(params))
        return searcher.search(listed, adapters)

    def chat(  # noqa: PLR0917 - vLLM's signature
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: ParamsLike = None,
        use_tqdm: UseTqdm = True,
        lora_request: LoRALike = None,
        priority: PriorityLike | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or many, and wait.

        Args:
            messages: A list of ``{"role": …, "content": …}``, or a list of such lists.
            sampling_params: One for all conversations, a list with one for each, or
                `None` for the model's own defaults.
            use_tqdm: Show a progress bar; or a callable that makes one.
            lora_request: One adapter for all, a list with one or `None` for each.
            priority: Lower is sooner; one for all or a list with one for each.
            chat_template: Template text for this call, or the name of one of the
                tokenizer's templates.
            chat_template_content_format: The form in which the template gets contents:
                "string" (text parts joined by line ends), "openai" (a list of parts),
                or "auto" for what it reads.
            add_generation_prompt: End the prompt where the assistant begins.
            continue_final_message: Continue the last message instead.
            tools: Functions or their JSON schemas, for templates that offer tools.
            chat_template_kwargs: Further variables for the template.
            tokenization_kwargs: May hold ``truncate_prompt_tokens``, and vLLM's other
                keys with values that change nothing.
            mm_processor_kwargs: `None`, because prompts are text and token ids.

        Returns:
            A list of `RequestOutput` in the order of the conversations.

        Raises:
            ChatTemplateError: There is no template, or it refused the messages.
            RequestError: The only conversation failed.
        """
        if self._only_ids:
            _refuse_texts("messages")
        changes = as_changes(tokenization_kwargs, special_tokens=False)
        return self._with_vllms_texts(
            self._generator.chat,
            messages,
            self._params(sampling_params, changes, mm_processor_kwargs),
            use_tqdm=use_tqdm,
            lora_request=taken_adapters(lora_request),
            priority=0 if priority is None else priority,
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )

    def _with_vllms_texts(
        self, call: Callable[..., list[RequestOutput]], *args: Any, **options: Any
    ) -> list[RequestOutput]:
        """Call the generator; `Logprob.decoded_token` of the outputs is vLLM's."""
        try:
            outputs = call(*args, **options)
        except RequestsFailedError as error:
            self._token_texts.write(error.results)
            raise
        self._token_texts.write(outputs)
        return outputs

    def _params(
        self,
        given: ParamsLike,
        changes: dict[str, Any],
        processing: Mapping[str, Any] | None,
    ) -> ParamsLike:
        """Return the params of a call, with the changes of `tokenization_kwargs`."""
        if not is_empty(processing):
            raise UnsupportedParameterError(
                f"mm_processor_kwargs={processing!r} cannot be honoured: prompts are "
                "text and token ids, on every backend.",
                parameter="mm_processor_kwargs",
                value=processing,
            )
        params: Any = self._default_params if given is None else taken_params(given)
        params = structures.with_options(params, self._json_options)
        if self._only_ids:
            changes["detokenize"] = False
        if not changes:
            return params  # type: ignore[no-any-return]
        if isinstance(params, list):
            return [_changed(each, changes) for each in params]
        return _changed(params, changes)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------- closing

    def close(self) -> None:
        """End all requests and free the engine. Closing twice does nothing."""
        self._generator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.__exit__()

    if not TYPE_CHECKING:  # a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            reason = UNAVAILABLE_MEMBERS.get(name)
            why = f": {reason}." if reason else ""
            raise AttributeError(
                f"unillm.LLM has no attribute {name!r}{why}", name=name, obj=self
            )


def _refuse_texts(prompts: Prompts) -> None:
    """Refuse prompts that are not token ids.

    Raises:
        InvalidPromptError: A prompt is a text.
    """
    for prompt in as_prompts(prompts):
        ids = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else prompt
        if ids is None or isinstance(ids, str):
            raise InvalidPromptError(
                "skip_tokenizer_init=True takes prompts of token ids, got a text. Pass "
                '{"prompt_token_ids": ids}, or leave skip_tokenizer_init out.'
            )


def _changed(params: Any, changes: Mapping[str, Any]) -> Any:
    """Return params with other values; the generator refuses what are none."""
    if not isinstance(params, SamplingParams):
        return params
    return attrs.evolve(params, **changes)


def _as_dict(name: str, value: Any) -> Mapping[str, Any]:
    """Return the dict of an option, which may be `None`.

    Raises:
        ConfigError: *value* is neither.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise ConfigError(f"{name} must be a dict of names or None, got {value!r}.")


def _pop(values: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Remove the named values and return them."""
    return {name: values.pop(name) for name in names & values.keys()}


def _template_text(template: str | None) -> str | None:
    """Return the text of a template that is given as the path of its file.

    A text and a name stay as they are.
    """
    if not isinstance(template, str) or any(each in template for each in "{}\n"):
        return template
    path = Path(os.path.expanduser(template))
    try:
        is_file = path.is_file()
    except OSError:  # the text is too long for a name, for example
        is_file = False
    if not is_file:
        if path.name == template and not path.suffix:
            return template  # the name of one of the tokenizer's, which loading checks
        raise ConfigError(
            f"chat_template={template!r:.80} is neither a template (it has no braces) "
            "nor a file that exists."
        )
    return path.read_text("utf-8")


def _base_defaults(generation_config: str | None) -> SamplingParams | None:
    """Return the sampling defaults that a program names; `None` for the model's own.

    Raises:
        ConfigError: *generation_config* is neither "auto", "vllm" nor a directory.
    """
    if generation_config in (None, "auto"):
        return None
    if generation_config == VLLM:
        return SamplingParams()
    from ..backend import read_json

    found = read_json(Path(str(generation_config)), "generation_config.json")
    if found is None:
        raise ConfigError(
            f"generation_config must be 'auto', 'vllm' or a directory that has a "
            f"generation_config.json, got {generation_config!r}."
        )
    defaults = read_defaults(found)
    defaults.report(model=str(generation_config), strict=False)
    return defaults.check()
