# SPDX-License-Identifier: Apache-2.0

"""Phases of the wait for an engine, and the bars that show them."""

from __future__ import annotations

import io
import logging
import sys
import threading

import pytest

from unillm import Generator
from unillm.phase_bars import shown_phases
from unillm.phases import current_listener, listening, phase


def test_a_phase_reports_its_begin_its_progress_and_its_end():
    heard = []

    with listening(heard.append), phase("loading", total_bytes=8) as report:
        report("half", fraction=0.5)

    assert [(each.message, each.fraction, each.is_over) for each in heard] == [
        ("", None, False),
        ("half", 0.5, False),
        ("", None, True),
    ]
    assert {(each.name, each.total_bytes) for each in heard} == {("loading", 8)}


def test_a_phase_that_fails_is_over():
    heard = []

    with pytest.raises(RuntimeError), listening(heard.append), phase("loading"):
        raise RuntimeError

    assert [each.is_over for each in heard] == [False, True]


def test_a_phase_without_a_listener_does_its_work():
    with phase("loading") as report:
        report("half")

    assert current_listener() is None


def test_threads_do_not_hear_each_other():
    heard = []

    def load():
        with phase("in the other thread"):
            pass

    with listening(heard.append):
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()

    assert heard == []


def test_a_generator_reports_the_phases_of_its_engine():
    heard = []

    with listening(heard.append), Generator("unillm/tiny", backend="transformers"):
        pass

    begun = list(dict.fromkeys(each.name for each in heard if not each.is_over))
    ended = [each.name for each in heard if each.is_over]
    assert begun == ended
    assert begun == [
        "reading the tokenizer",
        "importing torch and transformers",
        "loading the weights",
        "fusing and packing the weights",
    ]
    weights = next(each for each in heard if each.name == "loading the weights")
    assert weights.total_bytes == 803_968 * 4


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes standard error a terminal, and returns that.

    Called in the test, because pytest replaces the stream after the fixtures.
    """

    def make():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm-256color")
        return stream

    return make


def test_a_terminal_shows_phases_with_size_and_seconds(terminal):
    screen = terminal()
    with shown_phases(), phase("loading", total_bytes=3 * 2**20) as report:
        report("layer 1 of 2", fraction=0.5)
        shown = current_listener()._progress
        shown.refresh()

    assert "loading (3.0 MiB): layer 1 of 2" in screen.getvalue()
    assert "0:00:00" in screen.getvalue()


def test_nothing_is_drawn_after_the_wait(terminal):
    screen = terminal()
    with shown_phases():
        late = current_listener()
    assert late is not None
    before = screen.getvalue()

    with listening(late), phase("compiling"):
        pass

    assert screen.getvalue() == before == ""


def test_a_listener_of_the_caller_replaces_the_bars(terminal):
    screen = terminal()
    heard = []

    with listening(heard.append), shown_phases(), phase("loading"):
        pass

    assert len(heard) == 2
    assert screen.getvalue() == ""


def test_a_debug_log_is_not_mixed_with_bars(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setattr(logging.getLogger("unillm"), "level", logging.DEBUG)
    logging.getLogger("unillm").manager._clear_cache()

    with shown_phases(), phase("loading"):
        pass

    assert screen.getvalue() == ""


def test_a_pipe_gets_nothing(capsys):
    with shown_phases(), phase("loading"):
        assert current_listener() is None

    assert capsys.readouterr() == ("", "")


def test_a_closed_stream_gets_nothing(terminal):
    screen = terminal()
    screen.close()

    with shown_phases(), phase("loading"):
        assert current_listener() is None
