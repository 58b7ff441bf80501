# SPDX-License-Identifier: Apache-2.0

"""A backend that echoes its prompt: each new token is the next one of the prompt.

A plugin needs no more: an entry point, a hook, a `Backend` and an engine.
"""

from __future__ import annotations

import json

from unillm.backend import (
    Availability,
    Backend,
    Capabilities,
    Capability,
    PrefillResult,
    SlotEngine,
    SlotScheduler,
    SlotToken,
    Support,
    hookimpl,
)

GREEDY_ONLY = Capability(support=Support.UNSUPPORTED, reason="it can only echo")


class EchoEngine(SlotEngine):
    num_slots = 2
    max_model_len = 512
    vocab_size = 0  # known when a model is loaded

    def __init__(self, vocab_size, eos):
        self.vocab_size = vocab_size
        self._eos = eos
        self._left = {}

    def prefill(self, chunks):
        tokens = []
        for chunk in chunks:
            self._left.setdefault(chunk.slot, []).extend(chunk.token_ids)
            tokens.append(self._next(chunk.slot) if chunk.is_last else None)
        return PrefillResult(tokens=tokens, padding=[0] * len(chunks))

    def decode(self, slots):
        return [self._next(slot) for slot in slots]

    def release(self, slot):
        del self._left[slot]

    def close(self):
        self._left.clear()

    def _next(self, slot):
        left = self._left[slot]
        return SlotToken(left.pop(0) if left else self._eos)


class EchoBackend(Backend):
    name = "echo"
    description = "echoes the prompt"
    # Fields that are not named are refused. It may be asked to draw, and draws nothing.
    capabilities = Capabilities(
        fields={
            "stop_token_ids": Capability(),
            "ignore_eos": Capability(),
            "temperature": Capability(),
            "top_p": GREEDY_ONLY,
        }
    )

    def availability(self):
        return Availability(available=True)

    def create_engine(self, config):
        values = json.loads((config.path / "config.json").read_text())
        engine = EchoEngine(values["vocab_size"], values["eos_token_id"][0])
        return SlotScheduler(engine)


@hookimpl
def unillm_create_backend(name):
    return EchoBackend() if name == "echo" else None
