# SPDX-License-Identifier: Apache-2.0

"""The other process: ``python -m unillm.process``, started by `child.Child`."""

from __future__ import annotations

import sys

from .host import main

if __name__ == "__main__":  # false in processes that an engine spawns
    main(*map(int, sys.argv[1:]))
