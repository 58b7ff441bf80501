# SPDX-License-Identifier: Apache-2.0

"""The backend ``pipe``, for processes alone: engines with a script, and with faults.

`backend_options` has ``at``, which is "load", "close" or the number of a step, and
``fault``, the name of a function below.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs

from unillm.backend import (
    SAMPLING_FIELDS,
    Availability,
    Backend,
    Capabilities,
    hookimpl,
    phase,
)
from unillm.errors import EngineOutOfMemoryError, InvalidParameterError
from unillm.testing.backends import reference_backend
from unillm.testing.scripted import ScriptedEngine

REFUSED_LENGTH = 13
"""A prompt of so many tokens is refused."""


def exit_1():
    sys.stderr.write("the last words\n")
    os._exit(1)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def hang(*_):
    while True:
        time.sleep(60)


def memory():
    raise EngineOutOfMemoryError("CUDA ran out of memory: 5 GiB of 4 GiB")


def fail():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def refuse():
    raise ConnectionRefusedError("a worker of the engine does not answer")


def chatter():
    sys.stdout.write("engines print on standard output\n")
    sys.stdout.flush()
    os.system("echo and so do their children")


def slow():
    time.sleep(0.05)


def slow_load():
    time.sleep(4)


def close_sockets():
    """Close the sockets, and live on."""
    for number in map(int, sys.argv[1:]):
        os.close(number)
    hang()


class PipeEngine(ScriptedEngine):
    def __init__(self, options, **limits):
        super().__init__(lambda request, n: 65 + n % 26, **limits)
        self._options = options
        self.num_steps = 0

    def _at(self, moment):
        wanted = self._options.get("at")
        if wanted == moment or (wanted == "every step" and moment != "close"):
            globals()[self._options["fault"]]()

    def add_request(self, request):
        if len(request.prompt_token_ids) == REFUSED_LENGTH:
            raise InvalidParameterError(
                "an unlucky number", parameter="prompt", value=(REFUSED_LENGTH, "ids")
            )
        super().add_request(request)

    def step(self):
        self.num_steps += 1
        self._at(self.num_steps)
        self.calls.clear()
        if self.num_steps > self._options.get("silent_after", math.inf):
            slow()
            return []
        width = self._options.get("width", 1)
        return [
            attrs.evolve(each, token_ids=list(each.token_ids) * width)
            for each in super().step()
        ]

    def stats(self):
        if self._options.get("odd_stats"):
            return {"odd": object()}
        return {**super().stats(), "steps": self.num_steps, "pid": os.getpid()}

    def close(self):
        self._at("close")
        super().close()


class PipeBackend(Backend):
    name = "pipe"
    description = "for tests of processes"
    auto_rank = None
    option_names = None
    reads_weights = False
    capabilities = Capabilities.native(*SAMPLING_FIELDS)

    def availability(self):
        return Availability(available=True)

    def create_engine(self, config):
        options = config.backend_options
        with phase("reading the script", total_bytes=7) as report:
            report("line 1", fraction=0.5)
        if options.get("grandchild"):
            # It has a group of its own and does not hear of SIGTERM.
            code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
            child = subprocess.Popen(
                [sys.executable, "-c", f"import os; os.setpgrp(); {code}"],
                close_fds=False,
            )
            sys.stderr.write(f"grandchild {child.pid}\n")
        if "flag" in options and Path(options["flag"]).exists():
            exit_1()
        if "first_hangs" in options:
            try:
                with Path(options["first_hangs"]).open("x") as file:
                    file.write(str(os.getpid()))
            except FileExistsError:
                exit_1()
            hang()
        if options.get("at") == "load":
            globals()[options["fault"]]()
        if options.get("endless_compiling"):
            from unillm.process.compiling import StructureCompiler

            StructureCompiler._open = hang
        if "max_frame" in options:
            from unillm.process import channel

            channel.MAX_FRAME = options["max_frame"]
        return PipeEngine(
            options,
            max_num_seqs=config.max_num_seqs or 4,
            max_model_len=config.max_model_len or 512,
            vocab_size=512,
        )


class ReferenceBackend(PipeBackend):
    """The bundled model in numpy: structured outputs need the core's grammar."""

    name = "reference"
    option_names = frozenset()
    capabilities = reference_backend().capabilities

    def create_engine(self, config):
        return reference_backend("slots").create_engine(config)


@hookimpl
def unillm_create_backend(name):
    kinds = {"pipe": PipeBackend, "reference": ReferenceBackend}
    return kinds[name]() if name in kinds else None
