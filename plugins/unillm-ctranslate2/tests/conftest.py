# SPDX-License-Identifier: Apache-2.0

"""One cache of converted models for the session."""

from __future__ import annotations

import os

# Before any engine is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from unillm_ctranslate2 import CTranslate2Backend
from unillm_ctranslate2._loading import load_engine

from unillm import Generator
from unillm.backend import EngineConfig, find_model

FLOAT32 = {"backend": "ctranslate2", "dtype": "float32"}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("UNILLM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def generator(cache):
    with Generator("unillm/tiny", **FLOAT32, max_num_seqs=8) as generator:
        yield generator


@pytest.fixture(scope="session")
def reference():
    """The embedded backend on the same model."""
    with Generator("unillm/tiny", backend="transformers", dtype="float32") as generator:
        yield generator


@pytest.fixture
def load():
    """Load a batch engine for a model, as the backend does, without a scheduler."""
    engines = []

    def load(model="unillm/tiny", **options):
        given = {"backend": "ctranslate2", "max_num_seqs": 8} | options
        config = EngineConfig.create(model=str(model), path=find_model(model), **given)
        engines.append(load_engine(config, build=CTranslate2Backend().build))
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()
