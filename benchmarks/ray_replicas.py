# SPDX-License-Identifier: Apache-2.0

"""Rows and requests a second of one and of two replicas on a Ray cluster of two nodes.

Usage: ``python benchmarks/ray_replicas.py [--rows 640] [--step-ms 20]``

Both nodes are in this machine, so an engine that computes would share its cores. The
engine here follows a script and sleeps in each step, as one that waits for a device;
what is measured is whether Ray and the plugin keep two of them busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROWS = 32
TOKENS = 50
PORT = 8124

PLUGIN = """
import os
import time
from unillm.hookspecs import hookimpl
from unillm.testing.backends import ScriptedBackend
from unillm.testing.scripted import ScriptedEngine


class Engine(ScriptedEngine):
    def step(self):
        self.calls.clear()
        time.sleep(float(os.environ["SLEEPING_ENGINE_STEP_MS"]) / 1000)
        return super().step()


@hookimpl
def unillm_create_backend(name):
    if name == "sleeping":
        return ScriptedBackend(
            lambda config: Engine(
                lambda request, position: 20 + (request.arrival + position) % 200,
                max_num_seqs=config.max_num_seqs,
                max_model_len=512,
                vocab_size=512,
            ),
            name="sleeping",
        )
"""
"""A backend that the processes of Ray find by its entry point."""

ENGINE = {"backend": "sleeping", "max_num_seqs": ROWS}


def install(folder: Path) -> None:
    """Write the backend as an installed distribution."""
    about = folder / "sleeping_engine-0.dist-info"
    about.mkdir()
    (folder / "sleeping_engine.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeping-engine\n")
    (about / "entry_points.txt").write_text("[unillm]\nsleeping = sleeping_engine\n")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)


def rows_a_second(rows: int, replicas: int) -> float:
    """Return the rate of Ray Data over the last three quarters of the rows."""
    import ray
    import unillm_ray

    from unillm import SamplingParams

    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    items = [{"id": i, "prompt": "Hello"} for i in range(rows)]
    dataset = ray.data.from_items(items, override_num_blocks=rows // 8)
    done = unillm_ray.generate(
        dataset, "unillm/tiny", params, num_replicas=replicas, **ENGINE
    )
    times = [time.perf_counter() for _ in done.iter_batches(batch_size=8)]
    times = times[len(times) // 4 :]  # both actors are at work
    return 8 * (len(times) - 1) / (times[-1] - times[0])


def requests_a_second(seconds: float, replicas: int) -> float:
    """Return the rate of Ray Serve under more clients than rows."""
    import httpx
    import unillm_ray
    from ray import serve

    deployment = unillm_ray.deployment("unillm/tiny", num_replicas=replicas, **ENGINE)
    serve.run(deployment.bind(), name="unillm")
    body = {"prompt": "Hello", "max_tokens": TOKENS, "ignore_eos": True}
    count = 0

    async def client(http: httpx.AsyncClient, until: float) -> None:
        nonlocal count
        while time.perf_counter() < until:
            answer = await http.post("/v1/completions", json=body)
            answer.raise_for_status()
            count += 1

    async def load() -> float:
        nonlocal count
        limits = httpx.Limits(max_connections=None)
        url = f"http://127.0.0.1:{PORT}"
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
            clients = 2 * ROWS * replicas
            warm = time.perf_counter() + 3
            await asyncio.gather(*(client(http, warm) for _ in range(clients)))
            count, begin = 0, time.perf_counter()
            until = begin + seconds
            await asyncio.gather(*(client(http, until) for _ in range(clients)))
            return count / (time.perf_counter() - begin)

    rate = asyncio.run(load())
    serve.delete("unillm")
    return rate


def main() -> None:
    """Measure one and two replicas in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step-ms", type=float, default=20)
    given = parser.parse_args()
    os.environ["SLEEPING_ENGINE_STEP_MS"] = str(given.step_ms)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as other programs run
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        found = measure(given.rows, given.seconds, given.rounds)
    ideal = ROWS / (TOKENS * given.step_ms / 1000)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {given}")
    print(f"an engine of {ROWS} rows and {TOKENS} tokens a row: {ideal:.1f}/s at most")
    summary = {}
    for name, rates in found.items():
        one, two = rates[1], rates[2]
        ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
        summary[name] = {"one": one, "two": two, "ratio": round(ratio, 3)}
        print(
            f"{name}: one {statistics.median(one):.1f}/s, two "
            f"{statistics.median(two):.1f}/s, ratio {ratio:.2f}"
        )
    conditions = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**vars(given), **conditions, **summary}))


def measure(
    rows: int, seconds: float, rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Return the rates by what is measured and the number of replicas."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": 4,
        "object_store_memory": 100 * 2**20,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    rates: dict[str, dict[int, list[float]]] = {
        "Ray Data": {1: [], 2: []},
        "Ray Serve": {1: [], 2: []},
    }
    try:
        cluster.add_node(**node)
        ray.init(cluster.address, log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"port": PORT})
        for _ in range(rounds):
            for replicas in (1, 2):
                # As many rows for each replica.
                rates["Ray Data"][replicas].append(
                    rows_a_second(rows * replicas, replicas)
                )
                rates["Ray Serve"][replicas].append(
                    requests_a_second(seconds, replicas)
                )
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()
    return rates


if __name__ == "__main__":
    main()
