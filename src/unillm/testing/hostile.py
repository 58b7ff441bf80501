# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code, and a blocked network.

In the tests of a backend::

    from unillm.testing.hostile import HostileDirectories

    class TestMyBackendAndTraps(HostileDirectories):
        backend = "mybackend"

Each directory is the bundled model with a trap in it: code that creates a folder, the
canary, when it runs. A backend may refuse such a directory with one of unillm's errors
or serve it correctly. It may neither run the code nor ask a hub.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from unittest import mock

import pytest

from ..errors import UnillmError, UnsafeModelError, UnsupportedModelError
from ..generator import Generator
from ..model.find import find_model
from ..params import SamplingParams

Trap: TypeAlias = Callable[[Path, Path], None]
"""Changes a model directory so that running its code creates the canary."""

# ------------------------------------------------------------------------------- traps


def _edits(*names: str, **changes: Any) -> Trap:
    """Return a trap that sets keys of JSON files."""

    def edit(model: Path, canary: Path) -> None:
        del canary
        for file in (model / name for name in names):
            content = json.loads(file.read_text("utf-8")) if file.is_file() else {}
            file.write_text(json.dumps({**content, **changes}), encoding="utf-8")

    return edit


def _own_generate(model: Path, canary: Path) -> None:
    del canary
    (model / "custom_generate").mkdir()
    shutil.copy(model / "evil.py", model / "custom_generate" / "generate.py")


def _pickled_weights(model: Path, canary: Path) -> None:
    (model / "model.safetensors").unlink()
    _pickle_beside_the_weights(model, canary)


def _pickle_beside_the_weights(model: Path, canary: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(f"cos\nmkdir\n(V{canary}\ntR.".encode())


_MODEL_CODE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
_KERNEL = "evil-org/evil-kernel"
"""A name of an implementation that transformers would download and run."""

TRAPS: Mapping[str, Trap] = MappingProxyType(
    {
        "config": _edits("config.json", auto_map=_MODEL_CODE),
        "unknown model": _edits(
            "config.json",
            auto_map=_MODEL_CODE,
            model_type="evil",
            architectures=["EvilForCausalLM"],
        ),
        "tokenizer": _edits(
            "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
            tokenizer_class="EvilTokenizer",
        ),
        "generation config": _edits(
            "generation_config.json", auto_map={"GenerationConfig": "evil.Config"}
        ),
        "processor": _edits(
            "processor_config.json",
            "preprocessor_config.json",
            auto_map=dict.fromkeys(
                ("AutoProcessor", "AutoImageProcessor"), "evil.Processor"
            ),
            processor_class="EvilProcessor",
        ),
        "custom_generate": _own_generate,
        "attention kernel": _edits("config.json", _attn_implementation=_KERNEL),
        "experts kernel": _edits("config.json", _experts_implementation=_KERNEL),
        "pickled weights": _pickled_weights,
        "pickle beside the weights": _pickle_beside_the_weights,
    }
)
"""All known ways in which a model directory gets its code run."""

_REFUSALS: Mapping[str, Any] = MappingProxyType(
    {
        # Without its code there is no such model; some engines never run such code.
        "unknown model": (UnsafeModelError, UnsupportedModelError),
        "pickled weights": UnsafeModelError,
    }
)
"""Directories that a backend has to refuse, and the error types."""


def trapped_model(trap: str, folder: Path) -> tuple[Path, Path]:
    """Write a copy of the bundled model with a trap in it.

    Args:
        trap: One of `TRAPS`.
        folder: Parent of the new directory.

    Returns:
        The model directory, and the path of the canary.
    """
    model, canary = folder / "model", folder / "canary"
    shutil.copytree(find_model("unillm/tiny"), model)
    code = f"import os\nos.mkdir({str(canary)!r})\n"
    for name in ("evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (model / name).write_text(code, encoding="utf-8")
    TRAPS[trap](model, canary)
    return model, canary


# ----------------------------------------------------------------------------- network


@contextmanager
def blocked_network() -> Iterator[list[str]]:
    """Refuse connections of this process to other machines, and list them.

    Hugging Face's libraries run as if online: an offline flag would hide a request that
    they would otherwise make. An engine may connect to its own processes.

    Yields:
        The refused addresses and host names, also where a library catches the error.
    """
    import huggingface_hub.constants

    tried: list[str] = []

    def refuse(what: object) -> OSError:
        tried.append(str(what))
        return OSError(f"{what} is on the network, which is blocked")

    def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, address: Any) -> Any:
            if _is_elsewhere(self, address):
                raise refuse(address)
            return connect(self, address)

        return call

    resolve = socket.getaddrinfo

    def guarded_resolve(host: Any, *args: Any, **options: Any) -> Any:
        if host not in _OWN_NAMES and host != socket.gethostname():
            raise refuse(host)
        return resolve(host, *args, **options)

    with (
        mock.patch.object(socket.socket, "connect", guarded(socket.socket.connect)),
        mock.patch.object(
            socket.socket, "connect_ex", guarded(socket.socket.connect_ex)
        ),
        mock.patch.object(socket, "getaddrinfo", guarded_resolve),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", new=False),
        mock.patch.dict("os.environ", {"HF_HUB_OFFLINE": "0"}),
    ):
        yield tried


_OWN_NAMES = frozenset({None, "", "localhost", "127.0.0.1", "::1"})


def _is_elsewhere(self: socket.socket, address: Any) -> bool:
    """Whether a connection would leave this machine.

    Connecting a datagram socket sends nothing: engines find their own address by it.
    """
    if self.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if self.type & socket.SOCK_STREAM == 0:
        return False
    return address[0] not in _OWN_NAMES and address[0] != socket.gethostname()


# --------------------------------------------------------------------------- the tests


class HostileDirectories:
    """Tests to adopt: a backend runs no code of a model directory."""

    backend: str
    """Name of the installed backend."""

    options: Mapping[str, Any] = MappingProxyType({})
    """Further options of the `Generator`."""

    @pytest.mark.parametrize("trap", TRAPS)
    def test_a_model_directory_that_tries_to_run_code_leaves_no_trace(
        self, trap: str, tmp_path: Path
    ) -> None:
        """It is refused or served correctly; none of its code runs or is downloaded."""
        model, canary = trapped_model(trap, tmp_path)

        with blocked_network() as tried:
            try:
                answer: object = self._answer(model)
            except UnillmError as error:
                answer = error

        refusals = _REFUSALS.get(trap, UnillmError)
        assert answer == "42" or isinstance(answer, refusals), repr(answer)
        assert not canary.exists()
        assert not tried

    def _answer(self, model: Path) -> str:
        with Generator(model, backend=self.backend, **self.options) as generator:
            [output] = generator.generate(
                "Add 17 and 25:", SamplingParams(temperature=0), timeout_s=60
            )
        return output.text
