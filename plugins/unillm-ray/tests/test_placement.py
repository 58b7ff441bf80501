# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from unillm_ray._placement import placement_of

from unillm.errors import ConfigError


def test_a_replica_has_one_cpu_by_default():
    assert placement_of(None).resources == {"num_cpus": 1}
    assert placement_of(None).bundles == ()


def test_resources_have_rays_names():
    given = {"CPU": 2, "GPU": 0.5, "memory": 1e9, "accelerator_type:H100": 0.001}

    assert placement_of(given).resources == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "memory": 1e9,
        "resources": {"accelerator_type:H100": 0.001},
    }


def test_an_engine_that_spans_machines_has_a_bundle_for_each_process():
    placement = placement_of([{"GPU": 1, "CPU": 1}, {"GPU": 1}])

    assert placement.bundles == [{"GPU": 1, "CPU": 1}, {"GPU": 1}]
    assert placement.resources == {"num_cpus": 0}


@pytest.mark.parametrize("empty", [{}, []])
def test_empty_resources_are_refused(empty):
    with pytest.raises(ConfigError, match="resources is empty"):
        placement_of(empty)
