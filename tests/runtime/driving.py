# SPDX-License-Identifier: Apache-2.0

"""A tokenizer, an engine that waits for permits, and waits for drivers."""

from __future__ import annotations

import threading
import time

from unillm.testing.scripted import ScriptedSlotEngine

END = 0
PATIENCE_S = 10


class Letters:
    """A caller's tokenizer: a token for each character, and an EOS token."""

    eos_token_id = END

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i != END)


class Gate(ScriptedSlotEngine):
    """Generates "a", "b", "c", …; each decode waits until the test permits it."""

    def __init__(self, length=5, **kwargs):
        super().__init__(
            lambda _, n: END if n == length - 1 else ord("a") + n % 26, **kwargs
        )
        self.entered = threading.Event()
        self._permits = threading.Semaphore(0)

    def permit(self, decodes=100_000):
        self._permits.release(decodes)

    def decode(self, slots):
        self.entered.set()
        assert self._permits.acquire(timeout=PATIENCE_S)
        return super().decode(slots)


def start(driver, engine, handle):
    """Submit a request and wait until it has its first tokens."""
    driver.submit(handle, block=False)
    engine.permit(1)
    assert next(iter(handle)).token_ids


def wait_until(holds):
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, "it has not come in time"
        time.sleep(0.001)


def settle(driver):
    """Wait until every accepted request has ended, in the engine too."""

    def settled():
        stats = driver.stats()
        ended = sum(stats[key] for key in ("finished", "failed", "cancelled"))
        return stats["accepted"] == ended and not stats["live"]

    wait_until(settled)
