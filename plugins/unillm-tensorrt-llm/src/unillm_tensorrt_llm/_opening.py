# SPDX-License-Identifier: Apache-2.0

"""Loading: from a configuration to a running engine.

TensorRT-LLM lowers lengths in silence, so this package and the core check all lengths
and pass them explicitly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from unillm.backend import ArtifactStore, RunScheduler

from . import _building
from ._engine_dir import EngineDirectory, is_engine_directory
from ._engines import check, open_engine_llm, open_runner, refuse_adapters
from ._entry_paths import EntryPath, Installed, choose
from ._llm import LlmEngine
from ._pytorch import open_pytorch
from ._runner import RunnerEngine

if TYPE_CHECKING:
    from unillm.backend import BuildSpec, Engine, EngineConfig

log = logging.getLogger("unillm.tensorrt_llm")


def needed_build(config: EngineConfig) -> BuildSpec | None:
    """Return the spec of the engine to build for *config*; `None` if none is needed."""
    if is_engine_directory(config.path):
        return None
    wanted = config.backend_options.get("door")
    if wanted == EntryPath.PYTORCH.value:
        return None
    if wanted is None and _building.engine_version() is not None:
        installed = Installed.look()
        if choose(installed, config.path, None).entry_path is EntryPath.PYTORCH:
            return None
    return _building.build_spec(config)


def open_engine(config: EngineConfig) -> Engine:
    """Load a model into TensorRT-LLM; a `RunScheduler` drives runners.

    Raises what `load` raises.
    """
    engine = load(config)
    if isinstance(engine, LlmEngine):
        return engine
    return RunScheduler(engine, clock=perf_counter)


def load(config: EngineConfig) -> LlmEngine | RunnerEngine:
    """Load a model through its entry path.

    Raises:
        BackendUnavailableError: The installed version lacks the entry path.
        ConfigError: An option is refused.
        ModelLoadError: The model or the engine cannot be loaded.
        EngineOutOfMemoryError: It does not fit.
    """
    options = dict(config.backend_options)
    wanted = options.pop("door", None)
    installed = Installed.look()
    choice = choose(installed, config.path, wanted)
    log.info(
        "TensorRT-LLM %s, entry path %r: %s",
        installed.version,
        choice.entry_path.value,
        choice.reason,
    )
    if choice.entry_path is EntryPath.PYTORCH:
        return open_pytorch(config, installed, options)
    refuse_adapters(config)
    release: Callable[[], None] = _nothing
    path = config.path
    spec = needed_build(config)
    if spec is not None:
        artifact = ArtifactStore().obtain(spec, _building.build)
        path, release = artifact.path, artifact.close
    try:
        engine = EngineDirectory.read(path)
        check(engine, installed, config)
        if choice.entry_path is EntryPath.ENGINE:
            return open_engine_llm(config, installed, engine, options, release)
        return open_runner(config, installed, engine, options, release)
    except BaseException:
        release()
        raise


def _nothing() -> None:
    """Release nothing."""
