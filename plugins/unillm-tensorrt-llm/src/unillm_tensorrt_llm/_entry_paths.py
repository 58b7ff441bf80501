# SPDX-License-Identifier: Apache-2.0

"""The entry paths of TensorRT-LLM, chosen by its version and by the kind of model.

==========  ================================================  ==========================
path        class                                             versions
==========  ================================================  ==========================
`PYTORCH`   ``tensorrt_llm.LLM`` on PyTorch; continuous       1.0 on
`ENGINE`    ``LLM`` on built engines; continuous              ``tensorrt_llm.LLM`` up to
                                                              0.21, ``_tensorrt_engine``
                                                              from 1.0 to 1.3.0rc20
`RUNNER`    ``ModelRunner``, ``ModelRunnerCpp``; static,      up to 1.3.0rc20
            under unillm's run scheduler
==========  ================================================  ==========================

References:
    The release notes of 1.0 and v1.3.0rc20, and the page "Migration Guide: TensorRT
    Backend Removed".
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from unillm.errors import BackendUnavailableError, ConfigError, nearest_name

from ._engine_dir import EngineDirectory, is_engine_directory, is_tensorrt_checkpoint

LAST_WITH_ENGINES = "1.3.0rc20"
"""The last release with engines and runners; 1.2.1 is the last stable one."""


class EntryPath(enum.Enum):
    """An entry path: the classes of TensorRT-LLM that serve a model."""

    PYTORCH = "pytorch"
    ENGINE = "engine"
    RUNNER = "runner"


@attrs.frozen(kw_only=True)
class Installed:
    """The classes of the installed TensorRT-LLM; `None` where it has none."""

    version: str
    pytorch_llm: Any
    engine_llm: Any
    llm_module: Any
    """``llmapi`` or, up to 0.14, ``hlapi``."""
    model_runner: Any
    model_runner_cpp: Any

    @classmethod
    def look(cls) -> Installed:
        """Import TensorRT-LLM and find its classes.

        Raises:
            BackendUnavailableError: TensorRT-LLM cannot be imported.
        """
        try:
            top = importlib.import_module("tensorrt_llm")
        except Exception as error:  # a driver, a library or MPI may be missing
            raise BackendUnavailableError(
                f"TensorRT-LLM is installed and cannot be imported: "
                f"{type(error).__name__}: {error}. It needs an NVIDIA driver, the CUDA "
                "libraries of its version and OpenMPI (libopenmpi-dev).",
                name="tensorrt-llm",
            ) from error
        llm_module = module("tensorrt_llm.llmapi") or module("tensorrt_llm.hlapi")
        runtime = module("tensorrt_llm.runtime")
        runner = getattr(runtime, "ModelRunner", None)
        top_llm = getattr(top, "LLM", None) or getattr(llm_module, "LLM", None)
        engine_module = module("tensorrt_llm._tensorrt_engine")
        # Up to 0.21 the top-level class runs engines, next to the runners. From 1.0 it
        # runs on PyTorch, and the class for engines has its own module, until that
        # class and the runners are removed.
        on_pytorch = engine_module is not None or runner is None
        return cls(
            version=str(getattr(top, "__version__", "unknown")),
            pytorch_llm=top_llm if on_pytorch else None,
            engine_llm=(getattr(engine_module, "LLM", None) if on_pytorch else top_llm),
            llm_module=llm_module,
            model_runner=runner,
            model_runner_cpp=getattr(runtime, "ModelRunnerCpp", None),
        )

    @property
    def sampling_params(self) -> Any:
        """The class ``SamplingParams``."""
        top = importlib.import_module("tensorrt_llm")
        return getattr(top, "SamplingParams", None) or self.llm_module.SamplingParams

    @property
    def params_fields(self) -> frozenset[str]:
        """Fields of ``SamplingParams``."""
        return frozenset(inspect.signature(self.sampling_params).parameters)

    def arguments_of(self, entry_path: EntryPath) -> Mapping[str, Any]:
        """Return the fields of the class that an LLM class keeps its arguments in.

        Empty if this version's is unknown.
        """
        package = self.llm_module.__name__
        names = _ARGUMENTS[entry_path]
        for place in (f"{package}.llm_args", f"{package}.llm_utils"):
            for name in names:
                if found := getattr(module(place), name, None):
                    return fields_of(found)
        return {}

    def has(self, entry_path: EntryPath) -> bool:
        """Whether this version has an entry path."""
        return {
            EntryPath.PYTORCH: self.pytorch_llm,
            EntryPath.ENGINE: self.engine_llm,
            EntryPath.RUNNER: self.model_runner or self.model_runner_cpp,
        }[entry_path] is not None

    @property
    def runs_checkpoints_by_itself(self) -> bool:
        """Whether a Hugging Face checkpoint runs through an LLM API, not a runner."""
        by_engine = self.has(EntryPath.ENGINE) and self.keeps_stop_ids
        return self.has(EntryPath.PYTORCH) or by_engine

    @property
    def keeps_stop_ids(self) -> bool:
        """Whether results of its LLM API can keep the id that ended them.

        Without it, the plugin cannot know which EOS token ended a request.
        """
        return "include_stop_str_in_output" in self.params_fields


_ARGUMENTS = {
    EntryPath.PYTORCH: ("TorchLlmArgs",),
    EntryPath.ENGINE: ("TrtLlmArgs", "LlmArgs"),  # the latter up to 0.21
    EntryPath.RUNNER: (),
}


def module(name: str) -> Any:
    """Return a module; `None` if this version does not have it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def fields_of(owner: Any) -> Mapping[str, Any]:
    """Return the fields of a pydantic or a plain dataclass, by name."""
    for attribute in ("model_fields", "__dataclass_fields__"):
        found: Mapping[str, Any] | None = getattr(owner, attribute, None)
        if found is not None:
            return found
    return inspect.signature(owner).parameters


@attrs.frozen
class Choice:
    """An entry path, and the reason for the user."""

    entry_path: EntryPath
    reason: str


def choose(installed: Installed, path: Path, wanted: str | None) -> Choice:
    """Choose the entry path for a model.

    Args:
        installed: The installed TensorRT-LLM.
        path: A Hugging Face checkpoint or an engine directory.
        wanted: The user's option ``door``: a value of `EntryPath`, or `None`.

    Raises:
        ConfigError: *wanted* is unknown, or nothing serves this kind of model.
        BackendUnavailableError: The installed version lacks the entry path.
    """
    if is_tensorrt_checkpoint(path):
        raise ConfigError(
            f"{path} is an output of convert_checkpoint.py. Build an engine of it with "
            "trtllm-build and pass that directory, or pass the Hugging Face checkpoint."
        )
    if wanted is not None:
        return _asked_for(installed, path, wanted)
    if is_engine_directory(path):
        return _for_engine(installed, EngineDirectory.read(path))
    if installed.has(EntryPath.PYTORCH):
        return Choice(
            EntryPath.PYTORCH, "a Hugging Face checkpoint runs on PyTorch as it is"
        )
    if installed.has(EntryPath.ENGINE) and installed.keeps_stop_ids:
        return Choice(
            EntryPath.ENGINE, f"TensorRT-LLM {installed.version} builds an engine of it"
        )
    return Choice(
        EntryPath.RUNNER,
        f"TensorRT-LLM {installed.version} builds an engine of it, and its LLM API "
        "does not say which EOS token ended a request",
    )


def _for_engine(installed: Installed, engine: EngineDirectory) -> Choice:
    if engine.inflight and installed.has(EntryPath.ENGINE) and installed.keeps_stop_ids:
        return Choice(EntryPath.ENGINE, "the engine was built for in-flight batching")
    if installed.has(EntryPath.RUNNER):
        why = (
            "its LLM API does not say which EOS token ended a request"
            if engine.inflight
            else "the engine was built without in-flight batching"
        )
        return Choice(EntryPath.RUNNER, why)
    raise _gone(installed, "an engine directory")


def _asked_for(installed: Installed, path: Path, wanted: str) -> Choice:
    names = [each.value for each in EntryPath]
    if wanted not in names:
        raise ConfigError(
            f"The option door must be one of {', '.join(names)}, got {wanted!r}."
            f"{nearest_name(wanted, names)}"
        )
    entry_path = EntryPath(wanted)
    _need(installed, entry_path, f"door={wanted!r}")
    if entry_path is EntryPath.PYTORCH and is_engine_directory(path):
        raise ConfigError(
            f'{path} is an engine, and door="pytorch" takes Hugging Face '
            "checkpoints. Pass the checkpoint, or leave out the option door."
        )
    return Choice(entry_path, "the option door names it")


def _need(installed: Installed, entry_path: EntryPath, what: str) -> None:
    if installed.has(entry_path):
        return
    if entry_path is EntryPath.PYTORCH:
        raise BackendUnavailableError(
            f"{what} needs the LLM API on PyTorch, which is the default from "
            f"TensorRT-LLM 1.0 on; {installed.version} is installed.",
            name="tensorrt-llm",
        )
    raise _gone(installed, what)


def _gone(installed: Installed, what: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"{what} needs TensorRT engines, which TensorRT-LLM runs up to "
        f"{LAST_WITH_ENGINES} (1.2.1 is the last stable version); {installed.version} "
        "is installed. Install tensorrt-llm==1.2.1, or pass the Hugging Face "
        "checkpoint, which runs on PyTorch.",
        name="tensorrt-llm",
    )
