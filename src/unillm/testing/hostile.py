# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code, and a network that nobody may use.

In the tests of a backend::

    from unillm.testing.hostile import HostileDirectories

    class TestMyBackendAndTraps(HostileDirectories):
        backend = "mybackend"

Each directory is the bundled model with a trap in it: code that makes a folder, the
canary, when anything runs it. A backend may refuse such a directory with one of
unillm's errors, or serve it rightly; what it may not do is run the code or ask a hub.
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
"""Changes a model directory so that what is run of it writes the canary."""

KERNEL = "evil-org/evil-kernel"
"""How an implementation is named that transformers would fetch from a hub and run."""


# ------------------------------------------------------------------------------- traps


def _edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def _code_in_config(model: Path, canary: Path) -> None:
    del canary
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    _edit(model / "config.json", auto_map=code)


def _code_of_an_unknown_model(model: Path, canary: Path) -> None:
    _code_in_config(model, canary)
    _edit(model / "config.json", model_type="evil", architectures=["EvilForCausalLM"])


def _code_in_tokenizer_config(model: Path, canary: Path) -> None:
    del canary
    _edit(
        model / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
        tokenizer_class="EvilTokenizer",
    )


def _code_in_generation_config(model: Path, canary: Path) -> None:
    del canary
    code = {"GenerationConfig": "evil.Config"}
    _edit(model / "generation_config.json", auto_map=code)


def _code_in_processor_config(model: Path, canary: Path) -> None:
    del canary
    code = {"AutoProcessor": "evil.Processor", "AutoImageProcessor": "evil.Processor"}
    for name in ("processor_config.json", "preprocessor_config.json"):
        _edit(model / name, auto_map=code, processor_class="EvilProcessor")


def _own_generate(model: Path, canary: Path) -> None:
    del canary
    (model / "custom_generate").mkdir()
    shutil.copy(model / "evil.py", model / "custom_generate" / "generate.py")


def _attention_of_a_hub(model: Path, canary: Path) -> None:
    del canary
    _edit(model / "config.json", _attn_implementation=KERNEL)


def _experts_of_a_hub(model: Path, canary: Path) -> None:
    del canary
    _edit(model / "config.json", _experts_implementation=KERNEL)


def _pickled_weights(model: Path, canary: Path) -> None:
    (model / "model.safetensors").unlink()
    _pickle_beside_the_weights(model, canary)


def _pickle_beside_the_weights(model: Path, canary: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(f"cos\nmkdir\n(V{canary}\ntR.".encode())


TRAPS: Mapping[str, Trap] = MappingProxyType(
    {
        "config": _code_in_config,
        "unknown model": _code_of_an_unknown_model,
        "tokenizer": _code_in_tokenizer_config,
        "generation config": _code_in_generation_config,
        "processor": _code_in_processor_config,
        "custom_generate": _own_generate,
        "attention kernel": _attention_of_a_hub,
        "experts kernel": _experts_of_a_hub,
        "pickled weights": _pickled_weights,
        "pickle beside the weights": _pickle_beside_the_weights,
    }
)
"""Every way that is known in which a model directory gets code run."""


_REFUSALS: Mapping[str, Any] = MappingProxyType(
    {
        # Without its code there is no such model; some engines never run such code.
        "unknown model": (UnsafeModelError, UnsupportedModelError),
        "pickled weights": UnsafeModelError,
    }
)
"""What cannot be served at all, and the errors that say why."""


def trapped_model(trap: str, folder: Path) -> tuple[Path, Path]:
    """Write a copy of the bundled model with a trap in it.

    Args:
        trap: One of `TRAPS`.
        folder: Where to write it.

    Returns:
        The model directory, and where the canary would be.
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
    """Refuse what this process would say to another machine, and list it.

    Hugging Face's libraries are told that they are online: what they only leave alone
    because somebody said so would go unseen. An engine may talk to its own processes.

    Yields:
        What was tried. An engine may swallow the refusal, so look at this.
    """
    import huggingface_hub.constants

    tried: list[str] = []

    def refuse(what: object) -> OSError:
        tried.append(str(what))
        return OSError(f"{what} is on the network, which is blocked")

    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    resolve = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if _is_elsewhere(self, address):
            raise refuse(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if _is_elsewhere(self, address):
            raise refuse(address)
        return connect_ex(self, address)

    def guarded_resolve(host: Any, *args: Any, **options: Any) -> Any:
        if host not in _OWN_NAMES and host != socket.gethostname():
            raise refuse(host)
        return resolve(host, *args, **options)

    with (
        mock.patch.object(socket.socket, "connect", guarded_connect),
        mock.patch.object(socket.socket, "connect_ex", guarded_connect_ex),
        mock.patch.object(socket, "getaddrinfo", guarded_resolve),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", new=False),
        mock.patch.dict("os.environ", {"HF_HUB_OFFLINE": "0"}),
    ):
        yield tried


_OWN_NAMES = frozenset({None, "", "localhost", "127.0.0.1", "::1"})


def _is_elsewhere(self: socket.socket, address: Any) -> bool:
    """Say whether something would leave this machine.

    Connecting a datagram socket sends nothing: engines find their own address by it.
    """
    if self.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if self.type & socket.SOCK_STREAM == 0:
        return False
    return address[0] not in _OWN_NAMES and address[0] != socket.gethostname()


# --------------------------------------------------------------------------- the tests


class HostileDirectories:
    """Tests to adopt: no trap springs on a backend."""

    backend: str
    """Name of the installed backend."""

    options: Mapping[str, Any] = MappingProxyType({})
    """What a `Generator` is given besides."""

    @pytest.mark.parametrize("trap", TRAPS)
    def test_a_model_directory_that_tries_to_run_code_leaves_no_trace(
        self, trap: str, tmp_path: Path
    ) -> None:
        """It is refused by name or served rightly; nothing of it runs or is fetched."""
        model, canary = trapped_model(trap, tmp_path)

        with blocked_network() as tried:
            told = self._served(model)

        refusals = _REFUSALS.get(trap, UnillmError)
        assert told == "42" or isinstance(told, refusals), repr(told)
        assert not canary.exists()
        assert not tried

    def _served(self, model: Path) -> str | UnillmError:
        try:
            return self._answer_of(model)
        except UnillmError as error:
            return error

    def _answer_of(self, model: Path) -> str:
        with Generator(model, backend=self.backend, **self.options) as generator:
            [output] = generator.generate(
                "Add 17 and 25:", SamplingParams(temperature=0), timeout_s=60
            )
        return output.text
