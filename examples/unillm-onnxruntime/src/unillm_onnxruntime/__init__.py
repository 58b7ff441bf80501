"""ONNX Runtime as a backend of unillm: a hook and a `Backend`. Imports no engine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from unillm.backend import (
    SAMPLED,
    Availability,
    Backend,
    Capabilities,
    Progress,
    hookimpl,
)

if TYPE_CHECKING:
    from unillm.backend import BuildSpec, Engine, EngineConfig


class OnnxruntimeBackend(Backend):
    """Serves models that the builder of onnxruntime-genai exports."""

    api_version = (1, 0)
    name = "onnxruntime"
    description = "ONNX Runtime (CPU); slots scheduled by unillm"
    option_names = frozenset({"builder_python"})
    # RequestSampler computes the fields of SAMPLED from the engine's logits. A prompt's
    # log-probabilities come from the same logits, and no prompt is cached.
    capabilities = SAMPLED.refined(Capabilities.native("prompt_logprobs", "cache_salt"))

    def availability(self) -> Availability:
        """Look for the engine's package without importing it."""
        if find_spec("onnxruntime") is None:
            return Availability(
                available=False,
                reason="onnxruntime is not installed",
                remedy='pip install "onnxruntime>=1.24"',
            )
        return Availability(available=True)

    def build_spec(self, config: EngineConfig) -> BuildSpec:
        """Return all that the exported graph depends on."""
        from .building import build_spec

        return build_spec(config)

    def build(self, spec: BuildSpec, target: Path, progress: Progress) -> None:
        """Export the graph."""
        from .building import export

        export(spec, target, progress)

    def create_engine(self, config: EngineConfig) -> Engine:
        """Export the model unless it is stored, and load it."""
        from .engine import load

        return load(config, build=self.build)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the backend."""
    return OnnxruntimeBackend() if name == "onnxruntime" else None
