# SPDX-License-Identifier: Apache-2.0

"""An engine of a raw server, without the probe of the start."""

from __future__ import annotations

from unillm_remote._address import Address
from unillm_remote._endpoints.base import Served
from unillm_remote._endpoints.completions import VllmCompletions
from unillm_remote._engine import RemoteEngine
from unillm_remote._probing import Server

from unillm.backend import EngineLimits
from unillm.testing.driving import DrivenEngine

KEY = "a-key-that-stays-hidden"


def driven(url, *, max_num_seqs=4, endpoint=None):
    """An engine for a server at an address."""
    server = Server(
        endpoint=endpoint or VllmCompletions(),
        served=Served(model="tiny", vocab_size=512),
        version="0",
        max_model_len=256,
        checked_by="",
    )
    limits = EngineLimits(max_model_len=256, max_num_seqs=max_num_seqs, vocab_size=512)
    return DrivenEngine(RemoteEngine(Address(url, KEY), server, limits=limits), 30.0)
