# SPDX-License-Identifier: Apache-2.0

"""Imports of large libraries."""

from __future__ import annotations

import gc

import pytest

from unillm.imports import collector_paused


@pytest.fixture(autouse=True)
def collector():
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_pauses_and_goes_on():
    with collector_paused():
        assert not gc.isenabled()

    assert gc.isenabled()


def test_an_error_ends_the_pause():
    with pytest.raises(ImportError), collector_paused():
        raise ImportError

    assert gc.isenabled()


def test_a_collector_that_the_program_has_stopped_stays_stopped():
    gc.disable()

    with collector_paused():
        pass

    assert not gc.isenabled()


def test_new_objects_count_as_old_ones():
    with collector_paused():
        made = [[] for _ in range(1000)]

    oldest = set(map(id, gc.get_objects(generation=2)))
    assert oldest.issuperset(map(id, made))
    assert gc.get_freeze_count() == 0


def test_objects_that_the_program_has_frozen_stay_frozen():
    made = [[] for _ in range(1000)]
    gc.freeze()

    with collector_paused():
        pass

    # The collector lists no frozen objects.
    assert set(map(id, made)).isdisjoint(map(id, gc.get_objects()))
