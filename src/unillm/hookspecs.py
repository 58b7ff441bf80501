# SPDX-License-Identifier: Apache-2.0

"""What a plugin may implement. Public: plugin authors import `hookimpl` from here.

A plugin is a module that an entry point of the group ``unillm`` names. The name of the
entry point is the name of the backend::

    [project.entry-points.unillm]
    mybackend = "unillm_mybackend"

Plugins are listed without being imported, and imported when they are asked for by
name, when ``backend="auto"`` chooses, and by `unillm.backends`. Keep the module light:
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


@hookspec(firstresult=True)
def unillm_create_backend(name: str) -> Backend | None:
    """Create the backend called *name*.

    When: a generator is created, or `unillm.backends` lists what there is.
    Where: in the caller's process and thread; possibly several times.
    Results: stops at the first implementation that does not return `None`.

    Args:
        name: What the user asked for, lower-case; the name of an entry point.

    Returns:
        A backend, without having loaded an engine. `None` if the name is not this
        plugin's.

    .. versionadded:: 0.1
    """
