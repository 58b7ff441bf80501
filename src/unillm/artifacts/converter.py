# SPDX-License-Identifier: Apache-2.0

"""`run_converter`: a converter of an engine, in an environment of its own.

Converters pin versions of torch and transformers that the engine does not need, so the
two often have different environments.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EngineBuildError

if TYPE_CHECKING:
    from .key import BuildSpec
    from .progress import Progress

_SHOWN_LINES = 15
"""Last lines of a failed converter in its error."""


def run_converter(
    spec: BuildSpec, arguments: Sequence[str], progress: Progress
) -> None:
    """Run Python with *arguments* in the environment of ``spec.python``.

    Its last line becomes the message of *progress*. No hub is contacted.

    Args:
        spec: The spec that is built; `None` as its `python` is this environment.
        arguments: Those of the interpreter: ``["-m", "converter", ...]``.
        progress: That of `Backend.build`.

    Raises:
        EngineBuildError: The converter failed, with its last lines; or the interpreter
            does not exist.
    """
    python = spec.python or sys.executable
    progress(f"running {' '.join(arguments[:2])}")
    try:
        process = subprocess.Popen(  # noqa: S603 - a program of the backend's author
            [python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    except OSError as error:
        raise _failed(spec, f"{python} cannot be started: {error}") from error
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                # A progress bar writes over itself; its last state is enough.
                text = line.decode(errors="replace").strip().rpartition("\r")[2]
                if text := text.strip():
                    last.append(text)
                    progress(text)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failed(
            spec,
            f"{python} {' '.join(arguments)} ended with the code "
            f"{process.returncode}:\n" + "\n".join(last),
        )


def _failed(spec: BuildSpec, why: str) -> EngineBuildError:
    return EngineBuildError(
        f"{spec.model!r} was not converted for {spec.backend!r}: {why}",
        key=spec.key,
        backend=spec.backend,
    )
