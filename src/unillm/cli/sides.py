# SPDX-License-Identifier: Apache-2.0

"""Sides of a comparison or a benchmark: their options, and whether they exist.

``--option 2:KEY=VALUE`` is for the second side.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BackendUnavailableError, ConfigError

_SIDE_OPTION = re.compile(r"([1-9]):(.*)", re.DOTALL)


def pairs_by_side(given: Sequence[str], count: int) -> list[list[str]]:
    """Return the ``KEY=VALUE`` pairs of each side.

    Raises:
        ConfigError: A pair is for a side that does not exist.
    """
    pairs: list[list[str]] = [[] for _ in range(count)]
    for text in given:
        match = _SIDE_OPTION.fullmatch(text)
        if match is None:
            for each in pairs:
                each.append(text)
        elif int(match[1]) > count:
            raise ConfigError(
                f"--option {text} is for side {match[1]}, and there are {count} sides."
            )
        else:
            pairs[int(match[1]) - 1].append(match[2])
    return pairs


def check_side(model: str, python: str, given: Mapping[str, Any]) -> None:
    """Look whether a side can be loaded, before another one takes minutes.

    Args:
        model: Model of all sides.
        python: Interpreter of the side.
        given: Options of its generator.

    Raises:
        BackendError: Its backend does not exist, or cannot run.
        ConfigError: An option has an invalid value, or the backend refuses it.
        ModelError: The model cannot be found or read.
    """
    from ..process.backend import describe
    from ..resolve import resolve

    if python == sys.executable:
        resolve(model, **given)
    elif (name := given.get("backend", "auto")) != "auto":
        facts = describe(python, name)
        if not facts.available:
            remedy = f" Run there: {facts.remedy}" if facts.remedy else ""
            raise BackendUnavailableError(
                f"The backend {name!r} cannot run in {python}: {facts.reason}.{remedy}",
                name=name,
                remedy=facts.remedy,
            )
