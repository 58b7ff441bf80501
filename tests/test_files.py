# SPDX-License-Identifier: Apache-2.0

"""Files of a checkpoint that are not what they claim: each file, and each fault.

Every backend adopts the short form, `BrokenFiles`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import struct
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from unillm import Generator, inspect_model
from unillm.errors import ModelLoadError
from unillm.model.find import find_model
from unillm.testing.files import REFUSAL_S, BrokenFiles, edits, header

MEMORY_BYTES = 2**30

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
)
"""Files that a model directory may have."""


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Import the libraries, whose time is not that of reading a file."""
    inspect_model("unillm/tiny", backend="transformers")


@pytest.fixture
def model(tmp_path):
    """Return a copy of the bundled model."""
    return Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))


@contextmanager
def refused(match: str):
    """Expect a `ModelLoadError` within the limits of time and memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with pytest.raises(ModelLoadError, match=match):
        yield
    assert time.perf_counter() - started < REFUSAL_S
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MEMORY_BYTES


def start(model) -> None:
    Generator(model, backend="transformers", enforce_eager=True).close()


def replace(file: Path, make) -> None:
    file.unlink(missing_ok=True)
    make(file)


class TestTransformers(BrokenFiles):
    backend = "transformers"
    options = {"enforce_eager": True}


# ---------------------------------------------------------------------- kinds of files


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(20 * 2**30)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (Path.mkdir, "is a directory"),
        (lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
        (sparse, r"has 21,474,836,480 bytes|cannot be read as JSON"),
    ],
    ids=["pipe", "device", "directory", "broken link", "sparse"],
)
def test_a_file_of_another_kind_is_named(model, name, make, message):
    replace(model / name, make)

    with refused(rf"{re.escape(name)} .*({message})"):
        start(model)


# --------------------------------------------------------------------- contents of JSON


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "is nested more than 64 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested more than 64 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "is nested more than 64 levels"),
        (b'{"a": [' + b"[]," * 4_000_000 + b"[]]}", "has about 8,000,0"),
        (b"[1]", "must hold a JSON object, but holds a list"),
        (b'"text"', "must hold a JSON object, but holds a str"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "cannot be read as JSON"),
    ],
    ids=["lists", "objects", "a few", "many", "list", "text", "bytes", "number"],
)
def test_json_that_no_library_should_read_is_refused(model, name, content, message):
    (model / name).write_bytes(content)

    with refused(rf"{re.escape(name)} {message}"):
        start(model)


# -------------------------------------------------------------- numbers and their types


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 9999, "the weights beside it have 4 layers"),
        ("num_hidden_layers", True, "from 1 to 10,000, got True"),
        ("hidden_size", 10**12, "got 1000000000000"),
        ("hidden_size", 10**400, "got 1000"),
        ("vocab_size", 2**21, "is .* and should be .* by vocab_size=2097152"),
        ("intermediate_size", 2**24, "by intermediate_size=16777216"),
        ("num_attention_heads", 0, "from 1 to 16,777,216, got 0"),
        ("max_position_embeddings", "4096", "got '4096'"),
        ("pretrained_config", "a text", "must be an object, got 'a text'"),
        ("rope_scaling", ["linear"], "must be an object"),
        ("rope_scaling", {"type": "linear", "factor": "x"}, "factor must be a number"),
        ("rope_scaling", {"type": "linear", "factor": 1e300}, "factor must be"),
        ("layer_types", "full", "must be a list of texts"),
        ("architectures", 3, "must be a list of texts"),
        ("model_type", ["llama"], "must be a text"),
        ("quantization_config", "awq", "must be an object"),
        ("auto_map", "x", "must be an object"),
    ],
)
def test_the_error_of_a_number_or_type_names_file_and_field(
    model, field, value, message
):
    edits("config.json", **{field: value})(model)

    with refused(rf"config\.json(.|\n)*{field}(.|\n)*{message}|{message}"):
        start(model)


# ------------------------------------------------------------------ safetensors headers


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 2**64 - 1), "declares a header of 18,446"),
        (header([TENSOR]), "is a list, not an object"),
        (header({"a": [1]}), "'a' is not an object"),
        (header({"a": {**TENSOR, "shape": 4}}, data=bytes(4)), "'a' has no shape"),
        (header({"a": {**TENSOR, "shape": [-1]}}, data=bytes(4)), "'a' has no shape"),
        (header({"a": {**TENSOR, "shape": ["1"]}}, data=bytes(4)), "'a' has no shape"),
        (header({"a": {**TENSOR, "shape": [2**70]}}, data=bytes(4)), "needs"),
        (header({"a": {**TENSOR, "dtype": None}}, data=bytes(4)), "'a' has no dtype"),
        (header({"a": {**TENSOR, "data_offsets": [4, 0]}}), "no data_offsets"),
        (header({"a": {**TENSOR, "data_offsets": 4}}), "no data_offsets"),
        (header({"a": TENSOR}), "declares .* bytes and has"),
    ],
)
def test_a_header_that_is_none_is_refused(model, content, message):
    (model / "model.safetensors").write_bytes(content)

    with refused(rf"model\.safetensors .*{message}"):
        start(model)


@pytest.mark.parametrize("name", ["../a.safetensors", "/dev/zero", "a.bin", 3])
def test_an_index_names_safetensors_files_beside_it_alone(model, name):
    (model / "model.safetensors").rename(model / "a.safetensors")
    index = {"weight_map": {"a": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))

    with refused(r"index\.json: weight_map must be an object of file names"):
        start(model)
