# SPDX-License-Identifier: Apache-2.0

"""Versions of TensorRT-LLM: the modules, names and behaviour of each.

A profile states only what differs between versions. Names and signatures up to 0.17 are
those of ``facts.json``, read from sources; later ones stand in `names`.

Where the sources leave a question open, profiles differ, and the field says so, so that
code which relies on one answer fails on the other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from types import MappingProxyType

ALWAYS_ARGMAX = frozenset[str]()
"""The sampler of PyTorch honours nothing up to 1.0 (§4.1; PR #6451)."""

DRAWS = frozenset({"choice", "bias"})
"""Temperature, top-k, top-p and bias are honoured from 1.2.0rc0 on (PR #7294)."""

PENALISES = DRAWS | {"penalties", "bans"}
"""Penalties (PR #16485) and banned ids (``token_ban.py``) come with a package of the
sampler, about 1.3.0rc24."""

EVERYTHING = PENALISES | {"min_p"}
"""``min_p`` came in late July 2026 (PR #16590)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """A version. Defaults are those of the engine era."""

    version: str

    # --------------------------------------------------------------------- modules
    facts: str | None = None
    """Entry of ``facts.json`` with the names of this version."""
    modules: tuple[str, ...] = ("llmapi", "sampling_params", "executor_package")
    """Folders of ``tensorrt_llm``'s modules besides those of all versions (§1.2)."""
    sampler_modules: tuple[str, ...] | None = None
    """Modules of the package ``_torch.pyexecutor.sampler``; `None` where that is one
    file (§11)."""
    drawing_module: str | None = None
    """Module of ``_torch.pyexecutor`` with ``UtilsSamplingParams``, from the version on
    whose sampler draws (PR #7294)."""
    llm: str | None = "tensorrt"
    """Backend of ``tensorrt_llm.LLM``; `None` where the top level has none."""
    runtime: bool = True
    """``ModelRunner``, ``ModelRunnerCpp``, ``BuildConfig``; up to 1.3.0rc20 (§1.1)."""

    # ------------------------------------------------------------------ the LLM class
    shutdown: str = "shutdown"
    """``_shutdown`` in 0.13 to 0.17 (§2.5)."""
    abort: bool = True
    """From 0.19; before, ``cancel`` raises (§2.4)."""
    run_time_numbers: tuple[str, ...] = ("max_batch_size", "max_num_tokens")
    """Arguments that bound an engine: none up to 0.15, ``runtime_…`` in 0.16 (§2.1)."""
    run_time_defaults: tuple[tuple[str, int], ...] = ()
    """Their defaults where they are not the engine's: 2048 and 8192 from 1.1 on, which
    an engine with larger numbers does not raise (§2.1)."""
    over_length: str = "2025"
    """How PyTorch refuses over-long prompts: texts of ``"2025"`` or ``"2026"``; §2.6.
    Engines raise on an over-long sum in all versions."""
    priority: bool = False
    """``generate_async`` takes a priority and counts cached tokens (§2.3)."""
    ignore_eos_drops_stop_words: bool = False
    """2026 (§3)."""
    pydantic: bool = True
    """Configurations are strict pydantic classes, and before bindings of C++ classes,
    whose constructors raise TypeError (§2.1). Open for 0.18 to 0.20."""

    # ------------------------------------------------------------------- the samplers
    sampler_options: tuple[tuple[str, object], ...] = ()
    """Options of the PyTorch class that choose a sampler, and their defaults (§4.1)."""
    cpp_sampler: bool = True
    """One of the options chooses the C++ sampler: up to 1.3.0rc24, and a documentation
    page of 1.3.0rc26 calls it removed (§4.1)."""
    honours: frozenset[str] = ALWAYS_ARGMAX
    """The sampler of PyTorch honours these, and ignores the rest in silence (§4.2)."""
    seeds: str = "process"
    """Its random numbers: one generator of the ``"process"``, seeded 42, or the seed of
    the ``"first row"`` of each batch (§4.2; PR #17172). Open for 1.4."""
    min_tokens: str = "ignored"
    """``"with prompt"`` in 1.2 (the prompt counts), ``"new tokens"`` in 2026 (§4.2)."""
    prompt_ignore_length: bool = False
    """Late 1.2 and 1.3rc (§1.3), of which no profile is certain before 1.3rc20."""
    runner_seed: bool = True
    """``ModelRunnerCpp`` takes ``random_seed``. 0.13.0.dev2024090300 drops it; 0.13.0
    itself is open (§4.4)."""

    # -------------------------------------------------------------------- speculation
    decoding_configs: tuple[str, ...] = ()
    """``*DecodingConfig`` classes (§7)."""
    draft_field: str = "speculative_model"
    """``speculative_model_dir`` in 1.0, an alias later."""
    advanced_sampling: str | None = None
    """``allow_advanced_sampling``: `None` before it exists, when one-model methods are
    greedy; ``"needed"`` in 1.2 and 1.3rc; ``"deprecated"``, when each request decides
    (§7)."""
    shares_random_numbers: bool = False
    """The rows of a batch with speculation draw the same numbers (issue #19487)."""
    corrupts_chunks: bool = False
    """A prompt that is computed in chunks is wrong if its blocks are reused (PR #12673
    and others, April 2026). Open for 1.2.1 (§8)."""
    kv_dtypes: str = "any"
    """``KvCacheConfig.dtype``: ``"any"`` text, ignored if unknown, or ``"checked"``
    from mid-2026 (§2.2)."""


_HLAPI = ("hlapi", "executor_file")
_LLMAPI = ("llmapi", "executor_file")
_TORCH = ("llmapi", "sampling_params", "executor_package", "lora_manager", "torch")
_BOTH = (*_TORCH, "tensorrt_engine")
_SPECULATION_2025 = (
    "NGramDecodingConfig",
    "DraftTargetDecodingConfig",
    "EagleDecodingConfig",
    "MTPDecodingConfig",
)
_SPECULATION_2026 = (
    *("NGramDecodingConfig", "DraftTargetDecodingConfig", "Eagle3DecodingConfig"),
    *("EagleDecodingConfig", "MTPDecodingConfig", "PARDDecodingConfig"),
)
_LARGEST = (("max_batch_size", 2048), ("max_num_tokens", 8192))
_BY_TYPE = (("sampler_type", "auto"),)

_V0_17 = Profile(
    version="0.17.0",
    facts="0.17",
    modules=("llmapi", "sampling_params", "executor_file", "torch"),
    shutdown="_shutdown",
    abort=False,
    pydantic=False,
)
_V1_0 = Profile(
    version="1.0.0",
    modules=_BOTH,
    llm="pytorch",
    sampler_options=(
        ("enable_trtllm_sampler", False),
        ("enable_mixed_sampler", False),
    ),
    decoding_configs=_SPECULATION_2025,
    draft_field="speculative_model_dir",
    corrupts_chunks=True,
)
_V1_2 = dataclasses.replace(
    _V1_0,
    version="1.2.1",
    run_time_defaults=_LARGEST,
    sampler_options=_BY_TYPE,
    honours=DRAWS,
    drawing_module="sampling_utils",
    min_tokens="with prompt",
    decoding_configs=_SPECULATION_2026[:-1],
    draft_field="speculative_model",
    advanced_sampling="needed",
)
_V1_3RC20 = dataclasses.replace(
    _V1_2,
    version="1.3.0rc20",
    over_length="2026",
    ignore_eos_drops_stop_words=True,
    prompt_ignore_length=True,
    decoding_configs=_SPECULATION_2026,
    corrupts_chunks=False,
)
_V1_3RC24 = dataclasses.replace(
    _V1_3RC20,
    version="1.3.0rc24",
    modules=_TORCH,
    drawing_module="sampler.sampling_utils",
    sampler_modules=("sampling_utils", "penalties", "token_ban"),
    runtime=False,
    honours=PENALISES,
    min_tokens="new tokens",
    advanced_sampling="deprecated",
    kv_dtypes="checked",
)
_V1_4 = dataclasses.replace(
    _V1_3RC24,
    version="1.4.0rc1",
    modules=tuple(name for name in _TORCH if name != "lora_manager"),
    drawing_module="sampler.sampler_common",
    sampler_modules=("sampler_common", "penalties", "token_ban"),
    cpp_sampler=False,
    honours=EVERYTHING,
    priority=True,
    shares_random_numbers=True,
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "0.11": Profile(
            version="0.11.0",
            facts="0.11",
            modules=_HLAPI,
            llm=None,
            abort=False,
            run_time_numbers=(),
            pydantic=False,
        ),
        "0.12": Profile(
            version="0.12.0",
            facts="0.12",
            modules=_HLAPI,
            abort=False,
            run_time_numbers=(),
            pydantic=False,
        ),
        "0.13": Profile(
            version="0.13.0",
            facts="0.13",
            modules=_HLAPI,
            shutdown="_shutdown",
            abort=False,
            run_time_numbers=(),
            pydantic=False,
            runner_seed=False,
        ),
        "0.14": Profile(
            version="0.14.0",
            facts="0.14",
            modules=_HLAPI,
            shutdown="_shutdown",
            abort=False,
            run_time_numbers=(),
            pydantic=False,
        ),
        "0.15": Profile(
            version="0.15.0",
            facts="0.15",
            modules=_LLMAPI,
            shutdown="_shutdown",
            abort=False,
            run_time_numbers=(),
            pydantic=False,
        ),
        "0.16": dataclasses.replace(
            _V0_17,
            version="0.16.0",
            facts="0.16",
            modules=("llmapi", "sampling_params", "executor_file"),
            run_time_numbers=("runtime_max_batch_size", "runtime_max_num_tokens"),
        ),
        "0.17": _V0_17,
        "0.18": Profile(
            version="0.18.0",
            modules=("llmapi", "sampling_params", "executor_package", "torch"),
            abort=False,
            pydantic=False,
        ),
        "0.21": Profile(
            version="0.21.0",
            modules=_TORCH,
            sampler_options=(
                ("enable_trtllm_sampler", False),
                ("mixed_sampler", False),
            ),
            decoding_configs=_SPECULATION_2025,
            draft_field="speculative_model_dir",
        ),
        "1.0": _V1_0,
        "1.1rc0": dataclasses.replace(
            _V1_0,
            version="1.1.0rc0",
            run_time_defaults=_LARGEST,
            sampler_options=(("use_torch_sampler", False),),
        ),
        # Whether 1.1.0 draws is open: this one does not, and 1.2 does.
        "1.1": dataclasses.replace(
            _V1_0,
            version="1.1.0",
            run_time_defaults=_LARGEST,
            sampler_options=_BY_TYPE,
        ),
        "1.2": _V1_2,
        "1.3rc20": _V1_3RC20,
        "1.3rc24": _V1_3RC24,
        "1.4": _V1_4,
        # Which version has it is open.
        "main": dataclasses.replace(
            _V1_4,
            version="1.4.0rc1",
            sampler_modules=(
                *("sampler_common", "penalties", "token_ban", "seed_manager"),
            ),
            seeds="first row",
        ),
    }
)


def current() -> Profile:
    """Return the profile that the environment names."""
    return PROFILES[os.environ["TRTLLM_DOUBLE_PROFILE"]]
