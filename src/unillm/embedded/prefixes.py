# SPDX-License-Identifier: Apache-2.0

"""Which models take over prefixes, and from which length on that pays.

Keys and values of a position depend on the tokens up to it alone, so a row that begins
with the same tokens has them already. Windows do not change that: a row keeps all its
positions, and masks hide those that are too far away.
"""

from __future__ import annotations

import logging
from typing import Any

from .dynamic_rope import is_dynamic
from .families import family_of

log = logging.getLogger("unillm.transformers")

SHORTEST = {"cpu": 16, "cuda": 128}
"""Tokens of the shortest prefix that is taken over. On a GPU a copy takes a kernel for
each layer, as long as a short prompt takes whole."""

SHORTEST_MASKED = 512
"""The same on a GPU where attention does not read the cache by spans (`flash`): the
rest of such a prompt is computed eagerly, while a fresh prompt is a recorded pass."""


def refusal(model: Any) -> str | None:
    """Return why the rows of a model share no prefixes; `None` if they do."""
    if family_of(model.config).recurrent:
        return (
            "its layers keep the state of a row's last position alone, which no other "
            "prompt can begin with"
        )
    if is_dynamic(model):
        return (
            "its rotary embeddings scale with the length of the whole prompt, so the "
            "keys of a prefix depend on what follows it"
        )
    return None


def shortest_prefix(
    model: Any, *, asked: bool | None, by_spans: bool = False
) -> int | None:
    """Return the shortest prefix that rows take over; `None` if they take none.

    Args:
        model: A model on its device.
        asked: ``enable_prefix_caching``; `None` where the user leaves it open.
        by_spans: Whether attention reads the cache by spans.
    """
    if asked is False:
        return None
    if reason := refusal(model):
        how = log.warning if asked else log.info
        how("%s takes over no prefixes: %s.", type(model).__name__, reason)
        return None
    if model.device.type == "cuda" and not by_spans:
        return SHORTEST_MASKED
    return SHORTEST[model.device.type]
