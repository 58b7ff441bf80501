# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

from runtime.driving import PATIENCE_S

from unillm.runtime.alarms import Alarm


def elsewhere(work):
    """Do it in another thread, while the loop is busy here."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE_S)


def counted(loop):
    """Return a list that grows with each call into the loop."""
    calls = []
    call = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *given: (calls.append(given), call(*given))
    return calls


def test_one_call_sets_all_alarms_of_a_loop():
    async def read():
        calls = counted(asyncio.get_running_loop())
        alarms = [Alarm(for_end=False) for _ in range(8)]
        seen = []
        for _ in range(2):
            elsewhere(lambda: [alarm.ring() for alarm in alarms * 3])
            for alarm in alarms:
                await asyncio.wait_for(alarm.event.wait(), PATIENCE_S)
                alarm.event.clear()
            seen.append(len(calls))
        return seen

    assert asyncio.run(read()) == [1, 2]


def test_a_closed_loop_is_left_alone_and_let_go():
    async def made():
        return Alarm(for_end=False), weakref.ref(asyncio.get_running_loop())

    alarm, loop = asyncio.run(made())
    alarm.ring()
    alarm.ring()

    del alarm
    gc.collect()
    assert loop() is None
