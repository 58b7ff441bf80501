# SPDX-License-Identifier: Apache-2.0

"""Model directories whose files are not what they claim.

In the tests of a backend::

    from unillm.testing.files import BrokenFiles

    class TestMyBackendAndFiles(BrokenFiles):
        backend = "mybackend"

Each directory is the bundled model with one fault in it. A library that reads it may
wait for ever, take all memory or end the process, so a backend refuses it before its
engine starts, with a `ModelLoadError` that names the file and the field.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from unittest import mock

import pytest

from ..engines.backend import Backend
from ..errors import ModelLoadError
from ..generator import Generator
from ..model.find import find_model
from ..resolve import resolve
from ..text.loading import load_tokenizer

Change: TypeAlias = Callable[[Path], None]
"""Breaks a file of a model directory."""

REFUSAL_S = 5.0
"""Limit for the refusal of a directory, once the libraries are imported."""

# ------------------------------------------------------------------------------ changes


def edits(name: str, **changes: Any) -> Change:
    """Return a change that sets keys of a JSON file."""

    def change(model: Path) -> None:
        content = json.loads((model / name).read_text("utf-8"))
        (model / name).write_text(json.dumps(content | changes), encoding="utf-8")

    return change


def pipe(name: str) -> Change:
    """Return a change that puts a pipe in the place of a file."""

    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)

    return change


def holds(name: str, content: bytes) -> Change:
    """Return a change that writes a file."""

    def change(model: Path) -> None:
        (model / name).write_bytes(content)

    return change


def header(entries: object, *, data: bytes = b"") -> bytes:
    """Return a safetensors file.

    Args:
        entries: The header: its bytes, or a value for JSON.
        data: The bytes behind it.
    """
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def stacked(part: str, key: str, step: Mapping[str, Any], count: int) -> Change:
    """Return a change that repeats a step of ``tokenizer.json``."""
    sequence = {"type": "Sequence", key: [dict(step)] * count}
    return edits("tokenizer.json", **{part: sequence})


_NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
_DOUBLES = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}

FAULTS: Mapping[str, tuple[Change, str]] = MappingProxyType(
    {
        **{
            f"a pipe as {name}": (pipe(name), rf"{name} is a pipe")
            for name in (
                "config.json",
                "tokenizer.json",
                "preprocessor_config.json",
                "model.safetensors",
                "model.safetensors.index.json",
            )
        },
        **{
            f"nested {name}": (holds(name, _NESTED), rf"{name} is nested more than 64")
            for name in ("config.json", "generation_config.json", "tokenizer.json")
        },
        **{
            f"{number} layers": (
                edits("config.json", num_hidden_layers=number),
                rf"config\.json: num_hidden_layers must be .*, got {number}",
            )
            for number in (10**6, 0, -1)
        },
        "more layers": (
            edits("config.json", num_hidden_layers=99),
            r"config\.json: num_hidden_layers is 99, .* have 4 layers",
        ),
        "a negative size": (
            edits("config.json", hidden_size=-1),
            r"config\.json: hidden_size must be .*, got -1",
        ),
        "text_config is a text": (
            edits("config.json", text_config="a text"),
            r"config\.json: text_config must be an object, got 'a text'",
        ),
        "a header of 20 GB": (
            holds("model.safetensors", struct.pack("<Q", 20 * 2**30) + b"{}"),
            r"model\.safetensors .* declares a header of 21,474,836,480",
        ),
        "a nested header": (
            holds("model.safetensors", header(b"[" * 100_000)),
            r"model\.safetensors is nested more than 64",
        ),
        "a tensor without a dtype": (
            holds("model.safetensors", header({"a": {"shape": [1]}})),
            r"model\.safetensors .*'a' has no dtype",
        ),
        "stacked normalizers": (
            stacked("normalizer", "normalizers", {"type": "NFC"}, 10_000),
            r"tokenizer\.json: normalizer has 10,000 steps",
        ),
        "normalizers that double": (
            stacked("normalizer", "normalizers", _DOUBLES, 40),
            r"tokenizer\.json: normalizer makes a text more than 1024 times",
        ),
    }
)
"""The change, and a pattern of the message, by the name of the fault."""


# --------------------------------------------------------------------------- the tests


@contextmanager
def refused_before_start(backend: str, match: str) -> Iterator[None]:
    """Expect a `ModelLoadError` within `REFUSAL_S`, and no engine.

    Args:
        backend: Name of the installed backend.
        match: Pattern of the message.
    """
    made = type(resolve("unillm/tiny", backend).backend)
    create = made.create_engine

    def create_none(self: Backend, config: Any) -> Any:
        create(self, config).close()
        raise AssertionError(f"{backend} started an engine of {config.path}")

    load_tokenizer(find_model("unillm/tiny"))  # importing the libraries does not count
    started = time.perf_counter()
    with (
        mock.patch.object(made, "create_engine", create_none),
        pytest.raises(ModelLoadError, match=match),
    ):
        yield
    assert time.perf_counter() - started < REFUSAL_S


class BrokenFiles:
    """Tests to adopt: a backend refuses files that are not what they claim."""

    backend: str
    """Name of the installed backend."""

    options: Mapping[str, Any] = MappingProxyType({})
    """Further options of the `Generator`."""

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_file_that_is_not_what_it_claims_is_refused_before_the_engine_starts(
        self, fault: str, tmp_path: Path
    ) -> None:
        """The error names the file and, in JSON, the field."""
        model = Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))
        change, message = FAULTS[fault]
        change(model)

        with refused_before_start(self.backend, message):
            Generator(model, backend=self.backend, **self.options).close()
