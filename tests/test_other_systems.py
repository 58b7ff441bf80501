# SPDX-License-Identifier: Apache-2.0

"""A system without POSIX: the core is imported, and the embedded backend answers.

This is Linux with what Windows and macOS lack taken away, after the libraries that the
core uses are imported: they have code of their own for each system. It shows that
nothing here asks for more at import, or to generate; it is not a run on those systems.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="it reads the free memory outside of Linux")
pytest.importorskip("prompt_toolkit", reason="its code differs from system to system")

LESS = """
import builtins, io, os, pathlib, pkgutil, signal, socket, sys, typing

import asyncio, concurrent.futures, ctypes, multiprocessing, subprocess, tempfile
import attrs, cattrs, huggingface_hub, jinja2, llguidance, msgspec, pluggy
import prompt_toolkit, psutil, rich.console, tokenizers, torch, tqdm.auto, transformers, typer

memory = psutil.virtual_memory()  # from a file of Linux
psutil.virtual_memory = lambda: memory

MODULES = "curses fcntl grp pty pwd readline resource termios tty".split()
NAMES = {
    os: "fdatasync fork forkpty geteuid getpgid getuid killpg pidfd_open posix_spawn "
    "pread pwrite register_at_fork sched_getaffinity sched_setaffinity setsid "
    "sysconf uname waitid O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 pthread_sigmask "
    "pthread_kill setitimer sigwait",
    socket: "AF_UNIX",
}
for module in [*MODULES, *sys.modules]:
    if module.partition(".")[0] in MODULES:
        sys.modules[module] = None  # its import raises
for owner, names in NAMES.items():
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)


def without_kernel_files(call):
    def opened(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)):
            if os.fspath(path).startswith(("/proc", "/sys")):
                raise FileNotFoundError(path)
        return call(path, *args, **kwargs)

    return opened


for owner, name in [
    *((os, name) for name in ("listdir", "open", "readlink", "scandir", "stat")),
    *((each, "open") for each in (builtins, io)),
]:
    setattr(owner, name, without_kernel_files(getattr(owner, name)))
"""

IMPORTS = """
import importlib

import unillm

SERVES = {"bench", "server", "metrics", "protocol", "jobs"}  # have extras of their own
for module in pkgutil.walk_packages(unillm.__path__, "unillm."):
    parts = module.name.split(".")
    if "__main__" in parts or "contract" in parts or SERVES & set(parts[1:2]):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name.partition(".")[0] in {"peft", "pytest", "numpy", "triton"}, error
print("imported")
"""

GENERATES = """
from unillm import LLM, Generator, SamplingParams

with Generator("unillm/tiny", backend="transformers") as generator:
    [output] = generator.generate("Add 17 and 25:")
    print(output.text, output.finish_reason)
    print("".join(delta.text for delta in generator.stream("Count from 3 to 9:")))
with LLM("unillm/tiny", backend="transformers") as llm:
    print(llm.generate("Count from 3 to 9:", use_tqdm=False)[0].outputs[0].text)
"""

REFUSALS = """
from unillm import Generator
from unillm.artifacts.lock import FileLock
from unillm.errors import BackendUnavailableError

try:
    Generator("unillm/tiny", backend="transformers", python=sys.executable)
except BackendUnavailableError as error:
    print(error)
try:
    FileLock(pathlib.Path("lock")).try_acquire()
except OSError as error:
    print(error)
"""


def run(program: str, folder: Path) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LESS + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout.splitlines()


def test_the_core_generates_and_refuses_in_words_what_needs_posix(tmp_path):
    imported, added, streamed, whole, processes, locks = run(
        IMPORTS + GENERATES + REFUSALS, tmp_path
    )

    assert (imported, added) == ("imported", "42 stop")
    assert streamed == whole == "3 4 5 6 7 8 9"
    assert "reached over Unix sockets, which this system lacks" in processes
    assert "has no flock, which prepared engines and batch jobs need" in locks
