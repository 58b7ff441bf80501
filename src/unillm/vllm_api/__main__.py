# SPDX-License-Identifier: Apache-2.0

"""``python -m unillm.vllm_api run program.py``: a program for vLLM as it stands."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from .shim import install

USAGE = """\
usage: python -m unillm.vllm_api run PROGRAM [ARGUMENT ...]

Runs a Python program that was written for vLLM. What it imports from vllm comes from
unillm, on the backend that UNILLM_BACKEND names.
"""


def main(arguments: list[str]) -> None:
    """Run the program that the arguments name; the others are its own."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return
    if len(arguments) < 2 or arguments[0] != "run":
        sys.exit(f"{USAGE}\nGot: {' '.join(arguments) or 'no arguments'}")
    program = Path(arguments[1])
    if not program.is_file():
        sys.exit(f"There is no file {str(program)!r}. Pass the path of the program.")
    install()
    sys.argv = arguments[1:]
    sys.path.insert(0, str(program.resolve().parent))
    runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
