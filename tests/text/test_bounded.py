# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import threading
import time

import pytest

from unillm.text.bounded import call_within


def test_a_call_returns_its_result():
    assert call_within(10, lambda: 3) == 3


def test_a_call_raises_its_own_error():
    with pytest.raises(ZeroDivisionError):
        call_within(10, lambda: 1 // 0)


def test_a_call_that_does_not_end_is_stopped():
    went_on = threading.Event()
    ended = threading.Event()

    def loop():
        try:
            while True:
                went_on.set()
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"after 0\.2 s"):
        call_within(0.2, loop)

    assert went_on.is_set()
    assert ended.wait(10)


def test_no_thread_is_left_behind():
    def loop():
        while True:
            pass

    before = threading.active_count()
    with pytest.raises(TimeoutError):
        call_within(0.1, loop)

    until = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_error_that_is_not_an_exception_is_a_runtime_error():
    def panic():
        raise BaseException("panic of another language")

    with pytest.raises(RuntimeError, match="panic of another"):
        call_within(10, panic)
