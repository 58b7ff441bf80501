# SPDX-License-Identifier: Apache-2.0

"""Loading: from a configuration to a running `LLMEngine`.

vLLM reads much of its configuration from the environment. This module sets variables
that the user has not set, during the start alone.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unillm.backend import (
    ENGINE_OPTIONS,
    Capability,
    Support,
    check_tensors,
    keep_freed,
    phase,
    refuse_pickles,
    without_adapter,
)
from unillm.errors import UnknownArgumentError

from . import OWN_OPTION, PROCESSES_VARIABLE
from ._compat import search_modules_of_any_kind
from ._engine import VllmEngine
from ._errors import configuration_refused, start_failed
from ._generators import keep_generators_of_partial_prompts
from ._guidance import VllmGuidance, guidance_of
from ._lora import NoAdapter
from ._processes import EngineProcesses, environment
from ._shared import IN_PROCESS, Alone
from ._threads import OmpThreads

if TYPE_CHECKING:
    from unillm.backend import EngineConfig

log = logging.getLogger("unillm.vllm")

QUIET: Mapping[str, str] = {
    "VLLM_LOGGING_LEVEL": "ERROR",  # 32 lines for one tiny run otherwise
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # vLLM's default is stdout
    "VLLM_NO_USAGE_STATS": "1",  # vLLM sends usage statistics by default
    "TRANSFORMERS_VERBOSITY": "error",  # of its processes, which read the model again
}

SHARED_FIELDS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "dtype",
    "trust_remote_code",
    "seed",
    "enforce_eager",
    *ENGINE_OPTIONS,
)
"""Fields of `EngineConfig` that `EngineArgs` has under the same name."""

CACHE_SHARE = 0.5
"""Largest default share of the free memory of a CPU for the cache. vLLM's own default
is 92 % of all memory, free or not."""


def open_engine(config: EngineConfig) -> VllmEngine:
    """Load the model into vLLM.

    Raises:
        ConfigError: vLLM does not have an option or refuses its value; or the main
            module lacks the guard that vLLM's processes need.
        UnsupportedModelError: vLLM does not know the architecture.
        ModelLoadError: vLLM cannot load the model.
        UnsafeModelError: The model needs code of its checkpoint, or its weights are
            pickles and ``load_format`` does not ask for them.
        EngineOutOfMemoryError: Weights or cache do not fit.
    """
    options = dict(config.backend_options)
    asked = options.pop(OWN_OPTION, None)
    if options.get("load_format", "auto") == "auto":  # it would load pickles
        refuse_pickles(config.path)
        if "hf_overrides" not in options:
            check_tensors(config.path)
    processes = EngineProcesses()
    try:
        with processes.starting(), environment(_unset(QUIET)), _undisturbed():
            keep_generators_of_partial_prompts()
            return _start(config, options, asked, processes)
    except BaseException:
        processes.close()
        raise


def _start(
    config: EngineConfig,
    options: Mapping[str, Any],
    asked: bool | None,
    processes: EngineProcesses,
) -> VllmEngine:
    with phase("importing vLLM"):
        from vllm import LLMEngine
        from vllm.platforms import current_platform
        from vllm.v1.executor import Executor

    on_cpu = current_platform.is_cpu()
    multiprocessing = _use_processes(asked, on_cpu=on_cpu)
    alone = Alone(nullcontext()) if multiprocessing else IN_PROCESS.enter()
    threads = OmpThreads() if on_cpu and not multiprocessing else None
    variable = {PROCESSES_VARIABLE: "1" if multiprocessing else "0"}
    try:
        with alone.lock, environment(variable):
            if threads is not None:
                search_modules_of_any_kind()
                keep_freed()
            vllm_config = _vllm_config(config, options)
            if on_cpu:
                _bound_cpu_cache(vllm_config)
            spare_slot = on_cpu and vllm_config.lora_config is not None
            if spare_slot:
                _add_lora_slot(vllm_config.lora_config)
            guidance = _read_tokenizer(vllm_config)
            try:
                with phase("vLLM loads the weights, measures memory and compiles"):
                    engine = LLMEngine(
                        vllm_config=vllm_config,
                        executor_class=Executor.get_class(vllm_config),
                        log_stats=not options.get("disable_log_stats", True),
                        multiprocess_mode=multiprocessing,
                    )
            except Exception as error:
                raise start_failed(error, config, processes.report()) from error
    except BaseException:
        alone.leave()
        if threads is not None:
            threads.restore()
        raise
    processes.started()
    return VllmEngine(
        engine,
        processes=processes,
        alone=alone,
        threads=threads,
        unsupported=_unsupported(vllm_config, guidance),
        spells_exactly=guidance.spells_exactly,
        no_adapter=NoAdapter() if spare_slot else None,
    )


def _use_processes(asked: bool | None, *, on_cpu: bool) -> bool:
    """Return whether the engine runs in its own processes."""
    given = os.environ.get(PROCESSES_VARIABLE)
    if asked is None:
        return not on_cpu if given is None else given != "0"
    if given is not None and (given != "0") != asked:
        log.warning(
            "backend_options has %s=%r, which overrides the variable %s=%s",
            OWN_OPTION,
            asked,
            PROCESSES_VARIABLE,
            given,
        )
    return asked


def _vllm_config(config: EngineConfig, options: Mapping[str, Any]) -> Any:
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in options:
        if name not in known:
            takes = f"which takes every field of vllm.EngineArgs and {OWN_OPTION!r}"
            raise UnknownArgumentError(
                f"The backend 'vllm', {takes},", name, {*known, OWN_OPTION}
            )
    given = {name: getattr(config, name) for name in SHARED_FIELDS}
    if given["speculative_config"] is not None:
        given["speculative_config"] = dict(given["speculative_config"])
    named = isinstance(config.tokenizer, (str, os.PathLike))
    arguments = {
        "model": str(without_adapter(config.path)),
        "tokenizer": os.fspath(config.tokenizer) if named else None,
        # vLLM needs a tokenizer for structured outputs alone.
        "skip_tokenizer_init": config.tokenizer is not None and not named,
        "structured_outputs_config": {"backend": "guidance"},
        "scheduling_policy": "priority",  # equal ones in order of arrival
        "max_logprobs": config.max_logprobs,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "max_model_len": -1,  # the largest that fits
        **{name: value for name, value in given.items() if value is not None},
        **options,
    }
    try:
        # By the context, vLLM chooses how many requests and tokens a step has.
        return EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise configuration_refused(error, config) from error


def _read_tokenizer(vllm_config: Any) -> VllmGuidance:
    """Let vLLM read its tokenizer; return what llguidance makes of it.

    A model whose tokenizer only the core can read runs without structured outputs.
    """
    from vllm.tokenizers import cached_tokenizer_from_config

    if vllm_config.model_config.skip_tokenizer_init:
        return VllmGuidance(
            refusal="vLLM needs the path of a tokenizer, not an object. Pass "
            "tokenizer= as a path, without skip_tokenizer_init"
        )
    try:
        tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
    except Exception as error:  # noqa: BLE001 - a tokenizer may raise anything
        vllm_config.model_config.skip_tokenizer_init = True
        return VllmGuidance(
            refusal=f"vLLM cannot read the tokenizer: {type(error).__name__}: {error}"
        )
    return guidance_of(tokenizer, vllm_config.model_config.get_vocab_size())


def _unsupported(vllm_config: Any, guidance: VllmGuidance) -> dict[str, Capability]:
    """Return the fields that this engine does not have, with the reasons."""
    reasons = {}
    if guidance.refusal:
        reasons["structured_outputs"] = guidance.refusal
    if vllm_config.speculative_config is not None:
        why = "vLLM refuses it together with speculative decoding"
        reasons |= {"min_p": why, "logit_bias": why}
    return {
        name: Capability(support=Support.UNSUPPORTED, reason=reason)
        for name, reason in reasons.items()
    }


def _add_lora_slot(lora: Any) -> None:
    """Add a slot for `NoAdapter` to those of the user."""
    lora.max_loras += 1
    if lora.max_cpu_loras is not None:
        lora.max_cpu_loras = max(lora.max_cpu_loras, lora.max_loras)


def _bound_cpu_cache(vllm_config: Any) -> None:
    """Bound the cache of a CPU by the use of the requests, unless the user sets it."""
    cache, model = vllm_config.cache_config, vllm_config.model_config
    parallel = vllm_config.parallel_config
    default = type(cache).gpu_memory_utilization
    if cache.kv_cache_memory_bytes or cache.gpu_memory_utilization != default:
        return
    from vllm.utils.cpu_resource_utils import (
        get_memory_node_info,
        get_visible_memory_node,
    )

    number_bytes = 1 if cache.cache_dtype.startswith("fp8") else model.dtype.itemsize
    per_token = (
        2
        * model.get_num_layers(parallel)
        * model.get_num_kv_heads(parallel)
        * model.get_head_size()
        * number_bytes
    )
    tokens = vllm_config.scheduler_config.max_num_seqs * model.max_model_len
    files = Path(model.model).glob("*.safetensors")
    weights = sum(file.stat().st_size for file in files)
    memory = get_memory_node_info(get_visible_memory_node()[0])
    free = max(0, memory.available_memory - weights)
    cache.kv_cache_memory_bytes = min(tokens * per_token, int(CACHE_SHARE * free))


# ------------------------------------------------------------------------ surroundings


def _unset(variables: Mapping[str, str]) -> dict[str, str]:
    return {n: value for n, value in variables.items() if n not in os.environ}


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Undo the side effects of a starting vLLM on the caller.

    vLLM seeds the caller's random generators, adds libraries to ``LD_PRELOAD`` of later
    processes, and emits warnings that do not concern the caller. torch's generator
    stays seeded: an engine in this process draws from it.
    """
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    preload = os.environ.get("LD_PRELOAD")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            if preload is None:
                os.environ.pop("LD_PRELOAD", None)
            else:
                os.environ["LD_PRELOAD"] = preload
