# SPDX-License-Identifier: Apache-2.0

"""A backend whose engine dies of some prompts, for the processes of a cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path

from unillm.hookspecs import hookimpl
from unillm.testing.backends import ScriptedBackend
from unillm.testing.scripted import ScriptedEngine

DIES_ONCE, DIES, CRASHES = 3, 4, 5
"""First tokens of prompts: the engine fails once, each time, or ends its process."""

MARK = "FRAGILE_MARK"
"""Environment variable with the path of a file: its engine has died already."""


LAST_TOKENS = 55
"""Tokens before a crash: requests before it have ended then."""


class Fragile(ScriptedEngine):
    """Repeats a token, unless a prompt is one of the above."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._crashing = set()
        self._tokens_left = LAST_TOKENS

    def step(self):
        outputs = super().step()
        if self._crashing & {output.request_id for output in outputs}:
            self._tokens_left -= 1
            if not self._tokens_left:
                time.sleep(1)  # while what has ended leaves the process
                os._exit(1)
        return outputs

    def add_request(self, request):
        first = request.prompt_token_ids[0]
        if first == CRASHES:
            self._crashing.add(request.request_id)
        if first == DIES or (first == DIES_ONCE and self._is_first()):
            raise OSError("the device is lost")
        super().add_request(request)

    def _is_first(self):
        try:
            Path(os.environ[MARK]).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@hookimpl
def unillm_create_backend(name):
    """Create the backend."""
    if name == "fragile":
        return ScriptedBackend(
            lambda config: Fragile(
                lambda *_: 40, max_num_seqs=8, max_model_len=256, vocab_size=512
            ),
            name="fragile",
        )
    return None
