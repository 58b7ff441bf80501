# SPDX-License-Identifier: Apache-2.0

"""A backend that builds small files, with the limits of a static engine."""

from __future__ import annotations

from unillm.artifacts.folder import ArtifactFolder
from unillm.artifacts.key import BuildSpec
from unillm.engines.backend import Availability, Backend
from unillm.hookspecs import hookimpl

ENGINE_VERSION: str | None = "2.0"
"""`None` for a machine without the engine."""

FAULT: BaseException | None = None
"""Error that ends a build."""


class ScriptedBackend(Backend):
    name = "scripted"
    description = "builds small files"
    engine_options = frozenset({"quantization"})

    def availability(self):
        if ENGINE_VERSION is None:
            return Availability(available=False, reason="it is not installed")
        return Availability(available=True)

    def build_spec(self, config):
        return BuildSpec(
            model=config.model,
            model_path=config.path,
            model_files=ArtifactFolder().digest_model(config.path),
            backend=self.name,
            backend_version="0.1",
            engine_version=ENGINE_VERSION,
            device="any",
            dtype="float32" if config.dtype == "auto" else config.dtype,
            quantization=config.quantization,
            max_batch_size=config.max_num_seqs or 4,
            max_seq_len=config.max_model_len or 512,
        )

    def build(self, spec, target, progress):
        progress("converting", fraction=0.5)
        (target / "engine.bin").write_bytes(b"engine" * 100)
        if FAULT is not None:
            raise FAULT

    def create_engine(self, config):
        raise NotImplementedError


@hookimpl
def unillm_create_backend(name):
    return ScriptedBackend() if name == "scripted" else None
