# SPDX-License-Identifier: Apache-2.0

"""The calls that reached the fake, recorded for tests."""

SEEN: list[tuple[str, dict]] = []
"""Names and arguments of the calls."""


def note(name, **facts):
    SEEN.append((name, facts))


def clear():
    SEEN.clear()


def of(name):
    return [facts for seen, facts in SEEN if seen == name]
