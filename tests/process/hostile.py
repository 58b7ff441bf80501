# SPDX-License-Identifier: Apache-2.0

"""Processes that take the place of ``unillm.process`` and misbehave.

``python hostile.py KIND -m unillm.process WORK CONTROL``
"""

from __future__ import annotations

import os
import random
import sys
import time

from unillm.process.channel import ENCODER
from unillm.process.messages import PROTOCOL, Bye, Hello, News, Output, Ready

KIND, WORK, CONTROL = sys.argv[1], int(sys.argv[-2]), int(sys.argv[-1])


def frame(body):
    return len(body).to_bytes(4, "big") + body


def message(value):
    return frame(ENCODER.encode(value))


HELLO = message(Hello(protocol=PROTOCOL, unillm="0", python="3"))
READY = message(Ready(limits=(512, 4, None, 512, None), capabilities={}))


def write(data, number=WORK):
    while data:
        data = data[os.write(number, data) :]


def read():
    """Wait for the program's next message."""
    return os.read(WORK, 65536)


def ready():
    write(HELLO)
    read()  # Load
    write(READY)
    read()  # Turn


def stay():
    time.sleep(600)


def garbage():
    write(b"HTTP/1.1 200 OK\r\n\r\n")
    stay()


def old():
    write(message(Hello(protocol=PROTOCOL + 1, unillm="9.9", python="3")))
    stay()


def silent():
    stay()


def other():
    write(message(Bye()))
    stay()


def ten_gigabytes():
    ready()
    write((10 * 2**30 % 2**32 | 0x80000000).to_bytes(4, "big") + b"a" * 100)
    stay()


def half():
    ready()
    write(message(News(1, 1, [Output("0-0", [65])]))[:-3])
    os._exit(0)


def bytes_after_ready():
    ready()
    write(frame(b"\xc1\xff\x00"))
    stay()


def wrong_message():
    ready()
    write(HELLO)
    stay()


def wrong_types():
    ready()
    write(frame(b"\x94\xa4News\x01\x01\x91\x92\xa30-0\xa4text"))
    stay()


def closes():
    ready()
    os.close(WORK)
    stay()


def noise_on_control():
    ready()
    write(frame(b"\xc1"), CONTROL)
    stay()


def strangers():
    """Outputs of requests that do not exist, and then of one that does."""
    ready()
    write(message(News(1, 1, [Output("99-0", [1], "stop"), Output("", [], "error")])))
    write(message(News(1, 2, [Output("0-0", [65], "length")])))
    stay()


def fuzz():
    rng = random.Random(int(os.environ["SEED"]))
    parts = [HELLO, READY, message(News(1, 1, [Output("0-0", [65])]))]
    if rng.random() < 0.7:
        write(HELLO)
        if rng.random() < 0.7:
            read()
            write(READY)
    for _ in range(rng.randrange(1, 6)):
        data = bytearray(rng.choice([*parts, rng.randbytes(rng.randrange(200))]))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        write(bytes(data), rng.choice([WORK, WORK, WORK, CONTROL]))
    if rng.random() < 0.5:
        stay()


globals()[KIND]()
