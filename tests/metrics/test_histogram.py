# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from unillm.metrics.histogram import Histogram


def test_a_value_counts_in_each_bucket_that_is_not_below_it():
    histogram = Histogram([1.0, 2.0, 5.0])

    for value in (0.5, 1.0, 1.5, 5.0, 9.0):
        histogram.observe(value)

    assert dict(histogram.buckets()) == {"1.0": 2, "2.0": 3, "5.0": 4, "+Inf": 5}
    assert histogram.total == 17.0


def test_equal_values_count_together():
    histogram = Histogram([1.0])

    histogram.observe(0.5, 4)

    assert dict(histogram.buckets()) == {"1.0": 4, "+Inf": 4}
    assert histogram.total == 2.0
