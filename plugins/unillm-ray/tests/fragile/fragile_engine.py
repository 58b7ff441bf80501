# SPDX-License-Identifier: Apache-2.0

"""A backend whose engine dies of some prompts, for the processes of a cluster."""

from __future__ import annotations

import os
from pathlib import Path

from unillm.hookspecs import hookimpl
from unillm.testing.backends import ScriptedBackend
from unillm.testing.scripted import ScriptedEngine

DIES_ONCE, DIES, CRASHES = 3, 4, 5
"""First tokens of prompts: the engine fails once, each time, or ends its process."""

MARK = "FRAGILE_MARK"
"""Environment variable with the path of a file: its engine has died already."""


class Fragile(ScriptedEngine):
    """Repeats a token, unless a prompt is one of the above."""

    def add_request(self, request):
        first = request.prompt_token_ids[0]
        if first == CRASHES:
            os._exit(1)
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
