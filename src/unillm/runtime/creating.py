# SPDX-License-Identifier: Apache-2.0

"""`create_in_thread`: load a generator while an event loop goes on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar


class Closable(Protocol):
    """**Protocol:** a generator."""

    def close(self) -> None:
        """Free its engine."""


C = TypeVar("C", bound=Closable)


async def create_in_thread(create: Callable[[], C]) -> C:
    """Return what *create* returns, which runs in a thread with the caller's context.

    A thread cannot be interrupted: if the task is cancelled meanwhile, what the thread
    makes is closed, because no caller gets it.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="unillm-load")
    made = executor.submit(contextvars.copy_context().run, create)
    executor.shutdown(wait=False)
    try:
        return await asyncio.wrap_future(made)
    except asyncio.CancelledError:
        made.add_done_callback(_close)
        raise


def _close(made: Future[C]) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().close()
