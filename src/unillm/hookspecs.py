# SPDX-License-Identifier: Apache-2.0

"""The hooks that a plugin may implement. Public: plugins import `hookimpl` from here.

A plugin is a module that an entry point of the group ``unillm`` names. The name of the
entry point is the name of the backend::

    [project.entry-points.unillm]
    mybackend = "unillm_mybackend"

The core lists plugins without importing them. It imports a plugin when a caller names
it, when ``backend="auto"`` chooses, and in `unillm.backends`. Keep the module light:
import the engine inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .engines.backend import Backend

PROJECT = "unillm"
"""pluggy's project name, and the group of the entry points."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as the implementation of a hook."""


@hookspec(firstresult=True)
def unillm_create_backend(name: str) -> Backend | None:
    """Create the backend called *name*.

    When: a generator is created, or `unillm.backends` lists the backends.
    Where: in the caller's process and thread; possibly several times.
    Results: stops at the first implementation that does not return `None`.

    Args:
        name: Name of an entry point, as the caller wrote it, in lower case.

    Returns:
        A backend that has not loaded an engine; `None` if the plugin does not know the
        name.

    .. versionadded:: 0.1
    """
