# SPDX-License-Identifier: Apache-2.0

"""``unillm serve`` over an engine that follows a script, for faults and load.

Usage: ``python tests/scripted_server.py [options of unillm serve]``. Options of the
engine, as ``--option NAME=VALUE``: ``step_s``, seconds of a step; ``load_s``, seconds
until the engine is made; ``first_step_s``, seconds of a step with a new request.

Each token is a function of its prompt and its position (`token`), so an answer shows
whose it is. A prompt of `DEADLY` ids kills the engine, one of `FAILING` ids fails alone.
"""

from __future__ import annotations

import sys
import time

from unillm.cli import main
from unillm.testing import backends, scripted

DEADLY = [13, 13, 13]
FAILING = [14, 14, 14]
VOCABULARY = 512


def token(prompt, position):
    """The token of a prompt at a position; never an EOS token."""
    return 20 + (31 * sum(prompt) + 7 * len(prompt) + 11 * position) % 400


class Engine(scripted.ScriptedEngine):
    def __init__(self, config):
        options = config.backend_options
        self._step_s = options.get("step_s", 0.0)
        self._first_step_s = options.get("first_step_s", 0.0)
        time.sleep(options.get("load_s", 0.0))
        super().__init__(
            self._script,
            max_num_seqs=config.max_num_seqs or 4,
            max_model_len=config.max_model_len or 100_000,
            vocab_size=VOCABULARY,
        )

    def _script(self, request, position):
        prompt = list(request.prompt_token_ids)
        if prompt == DEADLY:
            raise RuntimeError("the device is gone")
        if prompt == FAILING:
            return scripted.SlotToken(0, error="this request is bad")
        return token(prompt, position)

    def step(self):
        self.calls.clear()  # a long test keeps no record
        new = any(row.generated == 0 for row in self._running.values())
        if self._waiting and len(self._running) < self.limits.max_num_seqs:
            new = True
        time.sleep(self._step_s + self._first_step_s * new)
        return super().step()


if __name__ == "__main__":
    backend = backends.ScriptedBackend(Engine)
    backend.option_names = frozenset({"step_s", "first_step_s", "load_s"})
    with backends.plugged(backend):
        main(["serve", "unillm/tiny", "--backend", "scripted", *sys.argv[1:]])
