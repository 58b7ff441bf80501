# SPDX-License-Identifier: Apache-2.0

"""The same prompts on two backends: equal, or where and by how much they part.

`sides` runs each in a process (and, if wanted, a Python environment) of its own,
`worker` is what runs there, and `verdict` compares what the two said.

Private to the core.
"""

from __future__ import annotations
