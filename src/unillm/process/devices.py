# SPDX-License-Identifier: Apache-2.0

"""The devices and cores of this machine, given out to replicas of an engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ..errors import ConfigError

log = logging.getLogger("unillm.process")

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"


@attrs.frozen(kw_only=True)
class Share:
    """The part of the machine that one replica has."""

    environment: Mapping[str, str] = attrs.field(factory=dict)
    """Variables of its process."""
    cores: Sequence[int] | None = None
    """Cores of its process; `None` for all."""


def gpus(root: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them.

    Args:
        root: Where NVIDIA's driver lists the machine's GPUs.
    """
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [name for name in names if name and not name.startswith("-")]
    try:
        return [str(number) for number, _ in enumerate(root.iterdir())]
    except OSError:
        return []


def shares(
    count: int, devices: Sequence[str], *, each: int, cores: Sequence[int]
) -> list[Share]:
    """Give out GPUs, or cores where there are none.

    Args:
        count: Replicas.
        devices: GPUs; empty for replicas that compute on the CPU.
        each: GPUs of one replica.
        cores: Cores of this process.

    Raises:
        ConfigError: There are fewer GPUs than the replicas need.
    """
    if devices:
        if len(devices) < count * each:
            raise ConfigError(
                f"data_parallel_size={count} needs {count * each} GPUs, {each} for "
                f"each replica, and there are {len(devices)}: {', '.join(devices)}."
            )
        return [
            Share(environment={_VISIBLE: ",".join(devices[at : at + each])})
            for at in range(0, count * each, each)
        ]
    if len(cores) < count:
        log.warning(
            "%d replicas share %d cores: more replicas than cores are slower than one",
            count,
            len(cores),
        )
        return [Share(environment={_THREADS: "1"})] * count
    size = len(cores) // count
    parts = [list(cores[at : at + size]) for at in range(0, count * size, size)]
    threads = os.environ.get(_THREADS, str(size))
    return [Share(environment={_THREADS: threads}, cores=part) for part in parts]
