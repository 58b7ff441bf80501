# SPDX-License-Identifier: Apache-2.0

"""unillm on a Ray cluster: `generate`, `deployment` and `RayWorker`.

They are for datasets, for servers and for the files of batch jobs.
Ray places the processes, restarts them, repeats their tasks and routes requests. This
package has the classes that Ray runs, around a `unillm.Generator` of any backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._command import serve_until_signal as serve_until_signal
    from ._data import generate as generate
    from ._serve import deployment as deployment
    from ._worker import RayWorker as RayWorker

_WHERE = {
    "RayWorker": "._worker",
    "deployment": "._serve",
    "generate": "._data",
    "serve_until_signal": "._command",
}

__all__ = [*_WHERE]  # noqa: PLE0604 - all are strings

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_WHERE[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
