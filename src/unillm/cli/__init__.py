# SPDX-License-Identifier: Apache-2.0

"""The command line. One module a command; everything it does, the library does.

Standard output carries results and nothing else; notes, progress and errors go to
standard error. Exit codes are in `exit_codes`. Until a command needs an engine, no
engine, torch or tokenizer is imported.

Private to the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process.

    Args:
        args: Arguments after the program's name; `None` takes those of the process.
    """
    from .app import run

    run(args)
