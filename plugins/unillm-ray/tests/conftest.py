# SPDX-License-Identifier: Apache-2.0

"""One cluster for the session, and the same model in this process as the oracle."""

from __future__ import annotations

import os
from pathlib import Path

# Before Ray is imported; its processes inherit them.
os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    RAY_USAGE_STATS_ENABLED="0",
    # A machine that is busy starts processes slowly, and those of Ray would come last.
    RAY_worker_niceness="0",
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="60",
    RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S="60",
)

import pytest
from questions import TINY

from unillm import Generator

FRAGILE = str(Path(__file__).with_name("fragile"))
SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="session")
def generator():
    with Generator("unillm/tiny", **TINY) as generator:
        yield generator


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A cluster of one node; tests add others."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # A plugin, which the processes of the cluster find on their path.
        patch.setenv("FRAGILE_MARK", str(tmp_path_factory.mktemp("fragile") / "died"))
        patch.setenv("PYTHONPATH", FRAGILE, prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "num_cpus": 6})
        try:
            ray.init(cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def second_node(cluster):
    """A second node, which the test may kill."""
    node = cluster.add_node(**SMALL, num_cpus=2)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)
