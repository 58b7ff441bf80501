# SPDX-License-Identifier: Apache-2.0

"""A backend that counts, and that lies, is vague or breaks as ``backend_options`` say.

For the tests of comparisons. Each new token is the one after the last; ``lie`` is:

- ``"token"``: the third is another one, which it gives 0.5 nats more;
- ``"tie"``: the same, by 0.001 nats;
- ``"mute"``: it has no log-probabilities;
- ``"moody"``: the tokens depend on how often it was asked;
- ``"load"``, ``"die"``, ``"sleep"``: an error while loading, the engine fails in the middle,
  it does not go on.

It always writes to standard output while it loads, as engines do.
"""

from __future__ import annotations

import sys
import time

from unillm.backend import (
    SAMPLING_FIELDS,
    Availability,
    Backend,
    Capabilities,
    Capability,
    PrefillResult,
    SlotEngine,
    SlotScheduler,
    SlotToken,
    Support,
    TokenLogprobs,
    hookimpl,
)
from unillm.errors import ModelLoadError

VOCAB = 512
TIE_TOKENS = 5
"""The honest one finds the third token a near tie where this is `max_tokens`."""
MUTE = Capability(support=Support.UNSUPPORTED, reason="it is mute")


class LiarEngine(SlotEngine):
    num_slots = 4
    max_model_len = 64
    vocab_size = VOCAB

    def __init__(self, lie):
        self._lie = lie
        self._rows = {}
        self._asked = 0

    def prefill(self, chunks):
        tokens = []
        for chunk in chunks:
            if chunk.is_last:
                self._asked += 1
                self._rows[chunk.slot] = [chunk.request, chunk.token_ids[-1], 0]
                tokens.append(self._next(chunk.slot))
            else:
                tokens.append(None)
        return PrefillResult(tokens=tokens, padding=[0] * len(chunks))

    def decode(self, slots):
        return [self._next(slot) for slot in slots]

    def release(self, slot):
        del self._rows[slot]

    def close(self):
        self._rows.clear()

    def _next(self, slot):
        request, last, place = self._rows[slot]
        honest = (last + 1) % 100
        token, other, gap = honest, (honest + 1) % 100, 0.5
        if place == 2:
            if self._lie in ("token", "tie"):
                token, other = other, token
                gap = 0.5 if self._lie == "token" else 0.001
            if self._lie == "sleep":
                time.sleep(600)
            if self._lie == "die":
                raise RuntimeError("it hurts")
            if request.params.max_tokens == TIE_TOKENS:
                gap = 0.001
        if self._lie == "moody":
            token = (token + self._asked) % 100
        self._rows[slot] = [request, token, place + 1]
        logprobs = None
        if request.params.logprobs is not None:
            logprobs = TokenLogprobs(-0.1, 1, [token, other], [-0.1, -0.1 - gap])
        return SlotToken(token, logprobs)


class LiarBackend(Backend):
    name = "liar"
    description = "counts, and lies as its options say"
    auto_rank = None
    option_names = frozenset({"lie"})
    capabilities = Capabilities.native(*SAMPLING_FIELDS)

    def availability(self):
        return Availability(available=True)

    def create_engine(self, config):
        lie = config.backend_options.get("lie")
        if lie == "load":
            raise ModelLoadError("The weights are not what they seem.")
        sys.stdout.write("hello from the engine\n")
        engine = SlotScheduler(LiarEngine(lie))
        if lie == "mute":
            engine.capabilities = Capabilities(fields={"logprobs": MUTE})
        return engine


@hookimpl
def unillm_create_backend(name):
    return LiarBackend() if name == "liar" else None
