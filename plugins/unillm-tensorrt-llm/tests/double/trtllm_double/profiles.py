# SPDX-License-Identifier: Apache-2.0

"""Version families: the names and the behaviour of each."""

from __future__ import annotations

import dataclasses
import os


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    version: str
    llm: str | None
    """Backend of ``tensorrt_llm.LLM``; `None` where the top level has none."""
    hlapi: bool = False
    """``tensorrt_llm.hlapi`` instead of ``tensorrt_llm.llmapi`` (up to 0.13)."""
    tensorrt_engine: bool = False
    """``tensorrt_llm._tensorrt_engine.LLM`` (1.0 to 1.3.0rc20)."""
    runtime: bool = True
    """``ModelRunner`` and ``ModelRunnerCpp`` (up to 1.3.0rc20)."""
    finish_reasons: bool = True
    """Results have a finish reason (from 0.14)."""
    abort: bool = True
    """Results can be aborted (from 0.19)."""
    public_shutdown: bool = True
    """``shutdown()``; ``_shutdown()`` before about 0.17."""
    old_names: bool = False
    """``max_new_tokens``, ``random_seed`` and ``min_length`` (before 0.13)."""
    end_id_in_tokens: bool = True
    """Whether ``token_ids`` end with the EOS token: not published, so profiles
    differ."""
    end_id_counted: bool = True
    """Whether ``sequence_lengths`` counts it: not published either."""
    over_length: str = "raise"
    """A prompt with ``max_tokens`` over ``max_seq_len``: "raise", or "clamp"."""
    ignore_eos_drops_stop_words: bool = False
    """2026 main."""
    request_error: bool = True
    """Over-length prompts are ``RequestError`` and not ``ValueError``."""
    kv_cache_dtype_argument: bool = False
    """A constructor argument ``kv_cache_dtype`` besides the configuration's field."""


PROFILES = {
    "0.11": Profile(
        version="0.11.0",
        llm=None,
        hlapi=True,
        finish_reasons=False,
        abort=False,
        public_shutdown=False,
        old_names=True,
        end_id_in_tokens=False,
        end_id_counted=False,
        request_error=False,
    ),
    "0.21": Profile(
        version="0.21.0",
        llm="tensorrt",
        end_id_in_tokens=False,
        request_error=False,
    ),
    "1.2": Profile(
        version="1.2.1",
        llm="pytorch",
        tensorrt_engine=True,
        over_length="clamp",
        request_error=False,
    ),
    "1.3rc20": Profile(
        version="1.3.0rc20",
        llm="pytorch",
        tensorrt_engine=True,
        end_id_in_tokens=False,
        end_id_counted=False,
        over_length="clamp",
        ignore_eos_drops_stop_words=True,
    ),
    "1.4": Profile(
        version="1.4.0rc1",
        llm="pytorch",
        runtime=False,
        over_length="clamp",
        ignore_eos_drops_stop_words=True,
    ),
}


def current() -> Profile:
    """Return the profile that the environment names."""
    return PROFILES[os.environ["TRTLLM_DOUBLE_PROFILE"]]


def need(*, there: bool, module: str) -> None:
    """Raise like a missing module, unless the profile has it."""
    if not there:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
