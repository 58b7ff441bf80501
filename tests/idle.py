# SPDX-License-Identifier: Apache-2.0

"""Waiting until a generator has no request left."""

from __future__ import annotations

from gone import wait_until

from unillm import Generator


def wait_until_idle(generator: Generator) -> None:
    """Wait until each accepted request has ended once, also in the engine."""

    def is_idle() -> bool:
        stats = generator.stats()
        ended = stats["finished"] + stats["failed"] + stats["cancelled"]
        return stats["accepted"] == ended and not stats["live"]

    assert wait_until(is_idle), generator.stats()
