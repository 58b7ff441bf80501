# SPDX-License-Identifier: Apache-2.0

"""`LLM`: vLLM's offline class, on any backend.

``from unillm import LLM, SamplingParams`` in place of ``from vllm import …`` is the
whole change. What vLLM's class has and this one has not, says so and what to use
instead.
"""

from __future__ import annotations

import inspect
import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
from typing_extensions import Self

from ..backend import read_json
from ..config import BACKEND_VARIABLE
from ..errors import ConfigError, UnsupportedParameterError
from ..generator import Generator, open_generator
from ..lora import LoRALike
from ..outputs import RequestOutput
from ..params import SamplingParams
from ..plugins import PluginRegistry
from ..resolve import resolve
from ..runtime.arguments import ParamsLike, PriorityLike, UseTqdm
from .engine_args import DEFAULTS, SortedArguments, sort_arguments

if TYPE_CHECKING:
    from ..engines.backend import Backend

log = logging.getLogger("unillm")

VLLM = "vllm"

_OWN = inspect.signature(Generator).parameters.keys() - {
    *DEFAULTS,
    "model",
    "backend",
    "backend_options",
}
"""Options of `Generator` that vLLM has not."""

_NO_RESULT = ("enable_prefix_caching", "gpu_memory_utilization")
"""Options of `Generator` that change no result. It refuses them where an engine has
nothing like them; a program for vLLM gives them without a thought of other engines."""

_TOKENIZING = "truncate_prompt_tokens"
"""The one key of ``tokenization_kwargs`` that has a meaning on every backend."""

_NO_VECTORS = "unillm generates text; it does not embed, classify or score"
_NO_RPC = "the engine is not reached into; what every engine has is in llm.generator"
_NO_WEIGHTS = "weights do not change while an engine runs; create a new LLM"
_NO_SLEEP = "an engine is there or closed; use close() and create a new LLM"

NOT_HERE: Mapping[str, str] = {
    "apply_model": _NO_RPC,
    "beam_search": "no backend has beam search; ask for n samples with logprobs=0 and "
    "take the one with the highest cumulative_logprob",
    "classify": _NO_VECTORS,
    "collective_rpc": _NO_RPC,
    "default_sampling_params": "use get_default_sampling_params()",
    "embed": _NO_VECTORS,
    "encode": _NO_VECTORS,
    "enqueue": "use llm.generator.submit(), which returns a handle",
    "enqueue_chat": 'use llm.generator.submit({"messages": …})',
    "finish_weight_update": _NO_WEIGHTS,
    "get_metrics": "use llm.generator.stats(); each output has metrics of its own",
    "get_weight_version": _NO_WEIGHTS,
    "get_world_size": "see llm.generator.config.tensor_parallel_size",
    "init_weight_transfer_engine": _NO_WEIGHTS,
    "llm_engine": "the engine is the generator's alone; use llm.generator.submit()",
    "model_config": "see llm.generator.config and llm.generator.limits",
    "release_kv_cache_memory": _NO_SLEEP,
    "request_counter": "request ids are the generator's alone",
    "reset_mm_cache": "prompts are text and token ids, on every backend",
    "reset_prefix_cache": "create the LLM with enable_prefix_caching=False to measure "
    "without the cache",
    "score": _NO_VECTORS,
    "shutdown_weight_transfer_engine": _NO_WEIGHTS,
    "sleep": _NO_SLEEP,
    "start_draft_weight_update": _NO_WEIGHTS,
    "start_profile": "profile the process with a tool of your own",
    "start_weight_update": _NO_WEIGHTS,
    "stop_profile": "profile the process with a tool of your own",
    "update_weight_version": _NO_WEIGHTS,
    "update_weights": _NO_WEIGHTS,
    "wait_for_completion": "use llm.generator.submit() and the handles' result()",
    "wake_up": _NO_SLEEP,
}
"""Members of ``vllm.LLM`` that are not here: what to use instead, or why not."""


class LLM:
    """vLLM's offline class over a `Generator`: the same calls, on any backend.

    The backend is, in this order: the argument *backend*, the environment's
    ``UNILLM_BACKEND``, vLLM if it can run here, the best that can. A program that names
    none runs unchanged on every one of them.

    Where it is better than vLLM's class it does not ask the program to change: several
    threads may use it, Ctrl-C leaves nothing queued, and one bad prompt takes no good
    one with it. It is closed when it is collected or the process ends; a ``with`` block
    or `close` does it sooner.

    Args:
        model: Directory, hub id, or the bundled ``"unillm/tiny"``.
        backend: Which engine; `None` as said above, "auto" as in `Generator`.
        backend_options: Options that only the chosen backend knows.
        options: Options of `Generator`, and every argument of vLLM's ``EngineArgs``
            under its name. One that the backend honours is honoured. One that changes
            no result, such as cache sizes and logs, is left out on an engine that
            has nothing like it. Any other is refused with the reason. `None` and
            vLLM's own default mean "not given".

    Raises:
        UnknownArgumentError: An option does not exist; a `TypeError` that names the
            nearest.
        ConfigError: An option has a value that cannot work, or that the backend does
            not honour.
        ModelError: As in `Generator`.
        BackendError: As in `Generator`.
        EngineOutOfMemoryError: As in `Generator`.
    """

    __module__ = "unillm"

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        backend: str | None = None,
        backend_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        own = {name: options.pop(name) for name in _OWN & options.keys()}
        given = sort_arguments(options, owner="LLM", also=_OWN)
        if (template := given.text.get("chat_template")) is not None:
            own["chat_template"] = _template_text(template)
        if given.shared.get("max_model_len") == -1:  # vLLM: what the memory allows
            del given.shared["max_model_len"]
        base = _base_defaults(given.text.get("generation_config"))
        overrides = given.text.get("override_generation_config", {})
        # What can be wrong with them is told now, not when the model is loaded.
        SamplingParams.from_generation_config(overrides)
        registry = PluginRegistry()
        found = resolve(
            model,
            _backend_name(registry, backend),
            registry=registry,
            **{n: value for n, value in given.shared.items() if n not in _NO_RESULT},
            **own,
        )
        honoured = found.backend.engine_options.intersection(_NO_RESULT)
        self._generator = open_generator(
            found.with_options(
                backend_options={
                    **_for_engine(given, found.backend),
                    **(backend_options or {}),
                },
                **{name: given.shared.get(name) for name in honoured},
            )
        )
        # Programs for vLLM close nothing.
        weakref.finalize(self, self._generator.close)
        self._default_params = SamplingParams.from_generation_config(
            overrides,
            base=base or self._generator.get_default_sampling_params(),
        )

    @classmethod
    def from_engine_args(cls, engine_args: Any) -> Self:
        """Create one from an ``EngineArgs`` object of an installed vLLM."""
        return cls(**vars(engine_args))

    @property
    def generator(self) -> Generator:
        """The generator that does the work; it streams and serves event loops too."""
        return self._generator

    def get_tokenizer(self) -> Any:
        """Return the tokenizer object itself."""
        return self._generator.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """Return a copy of what a call without params uses, to be changed at will."""
        return attrs.evolve(self._default_params)

    # --------------------------------------------------------------------- generating

    def generate(
        self,
        prompts: Any,
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
                for the model's own defaults.
            use_tqdm: Show a progress bar; or a callable that makes one.
            lora_request: One adapter for all, a list with one or `None` for each.
            priority: Lower is sooner; one for all or a list with one for each.
            tokenization_kwargs: ``{"truncate_prompt_tokens": k}`` and no other key.
            mm_processor_kwargs: Prompts are text and token ids; nothing but `None`.

        Returns:
            A list of `RequestOutput` in the order of the prompts, also for one prompt.

        Raises:
            RequestError: The only prompt failed.
            RequestsFailedError: Some of several failed; it carries the others' results,
                and is a `ValueError` too if each was refused for what was asked.
            EngineDeadError: The engine died.
            GeneratorClosedError: The LLM is closed.
        """
        return self._generator.generate(
            prompts,
            self._params(sampling_params, tokenization_kwargs, mm_processor_kwargs),
            use_tqdm=use_tqdm,
            lora_request=lora_request,
            priority=0 if priority is None else priority,
        )

    def chat(  # noqa: PLR0917 - vLLM's signature
        self,
        messages: Any,
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
            sampling_params: As in `generate`.
            use_tqdm: As in `generate`.
            lora_request: As in `generate`.
            priority: As in `generate`.
            chat_template: Template text for this call.
            chat_template_content_format: "auto" or "string": a template gets the
                content as text, text parts joined by line ends.
            add_generation_prompt: End the prompt where the assistant begins.
            continue_final_message: Go on in the last message instead.
            tools: Functions or their JSON schemas, for templates that offer tools.
            chat_template_kwargs: Further variables for the template.
            tokenization_kwargs: As in `generate`.
            mm_processor_kwargs: As in `generate`.

        Returns:
            A list of `RequestOutput` in the order of the conversations.

        Raises:
            ChatTemplateError: There is no template, or it refused the messages.
            RequestError: As in `generate`.
        """
        if chat_template_content_format not in ("auto", "string"):
            raise UnsupportedParameterError(
                "chat_template_content_format must be 'auto' or 'string', got "
                f"{chat_template_content_format!r}: templates get every content as "
                "text, on every backend.",
                parameter="chat_template_content_format",
                value=chat_template_content_format,
            )
        return self._generator.chat(
            messages,
            self._params(sampling_params, tokenization_kwargs, mm_processor_kwargs),
            use_tqdm=use_tqdm,
            lora_request=lora_request,
            priority=0 if priority is None else priority,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )

    def _params(
        self,
        given: ParamsLike,
        tokenization: Mapping[str, Any] | None,
        processing: Mapping[str, Any] | None,
    ) -> ParamsLike:
        """Return the params of a call, with what its other arguments say of them."""
        params = self._default_params if given is None else given
        if processing:
            raise UnsupportedParameterError(
                f"mm_processor_kwargs={processing!r} cannot be honoured: prompts are "
                "text and token ids, on every backend.",
                parameter="mm_processor_kwargs",
                value=processing,
            )
        for key in set(tokenization or ()) - {_TOKENIZING}:
            raise UnsupportedParameterError(
                f"tokenization_kwargs has {key!r}, which cannot be honoured; it takes "
                f"{_TOKENIZING!r}. To tokenise in another way, pass "
                '{"prompt_token_ids": ids}.',
                parameter="tokenization_kwargs",
                value=tokenization,
            )
        if not tokenization:
            return params
        if isinstance(params, SamplingParams):
            return attrs.evolve(params, **tokenization)
        return [attrs.evolve(each, **tokenization) for each in params]

    # ------------------------------------------------------------------------- closing

    def close(self) -> None:
        """End all requests and free the engine. Closing twice does nothing."""
        self._generator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    if not TYPE_CHECKING:  # else every name would be one for type checkers

        def __getattr__(self, name: str) -> Any:
            reason = NOT_HERE.get(name)
            why = f": {reason}." if reason else ""
            raise AttributeError(
                f"unillm.LLM has no attribute {name!r}{why}", name=name, obj=self
            )


def _backend_name(registry: PluginRegistry, given: str | None) -> str:
    """Return the backend that a program gets which names none, or the one it names."""
    if given is not None or os.environ.get(BACKEND_VARIABLE):
        return given or "auto"
    if VLLM in registry.names() and registry.status(VLLM).available:
        return VLLM
    return "auto"


def _for_engine(given: SortedArguments, backend: Backend) -> dict[str, Any]:
    """Return what is an option of the engine itself; the rest is left out or refused.

    Raises:
        ConfigError: An argument that only vLLM has may change a result.
    """

    def is_known(name: str) -> bool:
        return backend.name == VLLM or name in (backend.option_names or ())

    for name, value in given.own.items():
        if not is_known(name):
            raise ConfigError(
                f"LLM cannot honour {name}={value!r} on the backend {backend.name!r}: "
                "it is an option of vLLM alone. Leave it out, or run the program with "
                f"{BACKEND_VARIABLE}={VLLM}."
            )
    left_out = [name for name in given.effort if not is_known(name)]
    left_out += [
        name
        for name in _NO_RESULT
        if name in given.shared and name not in backend.engine_options
    ]
    if left_out:
        log.info(
            "left out on the backend %s, which has nothing like them (no result "
            "depends on them): %s",
            backend.name,
            ", ".join(left_out),
        )
    return {
        name: value
        for name, value in {**given.own, **given.effort}.items()
        if is_known(name)
    }


def _template_text(template: str) -> str:
    """Return a template that is given as text or, as vLLM takes it too, as a file."""
    if not any(character in template for character in "{}\n"):
        path = Path(template).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"chat_template={template!r} is neither a template (it has no braces) "
                "nor a file that exists."
            )
        return path.read_text("utf-8")
    return template


def _base_defaults(generation_config: str | None) -> SamplingParams | None:
    """Return the sampling defaults that a program names; `None` for the model's own.

    Raises:
        ConfigError: It is neither "auto", "vllm" nor a directory.
    """
    if generation_config in (None, "auto"):
        return None
    if generation_config == VLLM:
        return SamplingParams()
    found = read_json(Path(str(generation_config)), "generation_config.json")
    if found is None:
        raise ConfigError(
            f"generation_config must be 'auto', 'vllm' or a directory that has a "
            f"generation_config.json, got {generation_config!r}."
        )
    return SamplingParams.from_generation_config(found)
