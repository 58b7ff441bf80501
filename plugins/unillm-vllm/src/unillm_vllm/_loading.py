# SPDX-License-Identifier: Apache-2.0

"""From a configuration to a running `LLMEngine`: names, environment, errors.

vLLM reads much of its configuration from the environment when it is imported or when an
engine is made. What is set here is set only where the user has not, and before vLLM is
imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unillm.errors import ConfigError, ModelLoadError

from ._engine import VllmEngine

if TYPE_CHECKING:
    from unillm.config import EngineConfig

QUIET: Mapping[str, str] = {
    "VLLM_LOGGING_LEVEL": "ERROR",  # 32 lines for one tiny run otherwise
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # vLLM's default is stdout
    "VLLM_NO_USAGE_STATS": "1",  # vLLM sends usage statistics by default
}

SHARED_FIELDS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "dtype",
    "trust_remote_code",
    "seed",
)
"""Fields of `EngineConfig` that `EngineArgs` has under the same name."""

OWN_OPTION = "multiprocessing"
"""Option of this backend: run vLLM's engine in a process of its own, as vLLM does by
default. In one process it starts seven times as fast and was 1.5 to 2 times as fast on
two cores (vLLM 0.32, CPU)."""


def open_engine(config: EngineConfig) -> VllmEngine:
    """Load the model into vLLM.

    Raises:
        ConfigError: vLLM has no such option, or refuses its value.
        ModelLoadError: vLLM cannot load the model.
    """
    options = dict(config.backend_options)
    multiprocessing = bool(options.pop(OWN_OPTION, False))
    _set_environment(multiprocessing=multiprocessing)
    from vllm import LLMEngine

    arguments = _engine_args(config, options)
    try:
        engine = LLMEngine.from_engine_args(arguments)
    except ValueError as error:  # pydantic's ValidationError is one
        raise ConfigError(f"vLLM refused the configuration: {error}") from error
    except Exception as error:
        raise ModelLoadError(
            f"vLLM could not start with {config.model!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return VllmEngine(engine)


def _set_environment(*, multiprocessing: bool) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if multiprocessing else "0"


def _engine_args(config: EngineConfig, options: Mapping[str, Any]) -> Any:
    from vllm import EngineArgs

    given = {
        name: getattr(config, name)
        for name in SHARED_FIELDS
        if getattr(config, name) is not None
    }
    known = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, OWN_OPTION], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"The backend 'vllm' has no option {name!r}.{hint} It takes every "
                f"field of vllm.EngineArgs, and {OWN_OPTION!r}."
            )
    return EngineArgs(
        **{
            "model": str(config.path),
            "skip_tokenizer_init": True,  # text is the core's
            "max_logprobs": config.max_logprobs,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "scheduling_policy": "priority",  # equal ones in their order
            **given,
            **options,
        }
    )
