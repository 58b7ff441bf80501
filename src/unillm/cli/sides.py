# SPDX-License-Identifier: Apache-2.0

"""``--option`` for one side of several: ``2:KEY=VALUE`` is for the second."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import ConfigError

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
