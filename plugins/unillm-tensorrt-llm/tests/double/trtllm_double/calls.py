# SPDX-License-Identifier: Apache-2.0

"""What reached the double, for tests to look at."""

SEEN: list[tuple[str, dict]] = []
"""Name of what was called, and its arguments."""


def note(name, **facts):
    SEEN.append((name, facts))


def clear():
    SEEN.clear()


def of(name):
    return [facts for seen, facts in SEEN if seen == name]
