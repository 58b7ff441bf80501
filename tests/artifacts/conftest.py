# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest

from unillm.artifacts.key import BuildSpec
from unillm.artifacts.store import ArtifactStore


@pytest.fixture
def model(tmp_path):
    """A directory with the files of a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def root(tmp_path):
    """A cache folder that does not exist yet."""
    return tmp_path / "cache"


@pytest.fixture
def store(root):
    return ArtifactStore(root)


@pytest.fixture
def spec(model, store):
    return BuildSpec(
        model="some/model",
        model_path=model,
        model_files=store.folder.digest_model(model),
        backend="scripted",
        backend_version="0.1",
        engine_version="2.0",
        device="any",
        dtype="float32",
        max_batch_size=8,
        max_seq_len=512,
    )


@attrs.define(eq=False)
class Builder:
    """Builds small files, and lists their specs."""

    built: list[BuildSpec] = attrs.Factory(list)
    fault: BaseException | None = None

    def __call__(self, spec, target, progress):
        self.built.append(spec)
        progress("first file", fraction=0.0)
        (target / "engine.bin").write_bytes(bytes(range(200)))
        if self.fault is not None:
            raise self.fault
        progress("second file", fraction=0.5)
        (target / "vocabulary").mkdir()
        (target / "vocabulary" / "tokens.json").write_text('["a", "b"]')


@pytest.fixture
def builder():
    return Builder()
