"""newengine as a backend of unillm: a hook and a `Backend`. Imports no engine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from unillm.backend import SAMPLED, Availability, Backend, Capabilities, hookimpl

if TYPE_CHECKING:
    from unillm.backend import Engine, EngineConfig


class NewengineBackend(Backend):
    """Serves models with newengine."""

    api_version = (1, 0)
    name = "newengine"
    description = "newengine"
    # A field or a feature that is not named here is refused. SAMPLED has the fields of
    # RequestSampler; the other two are computed in engine.py.
    capabilities = SAMPLED.refined(Capabilities.native("prompt_logprobs", "cache_salt"))

    def availability(self) -> Availability:
        """Look for the engine's package without importing it."""
        if find_spec("safetensors") is None:
            return Availability(
                available=False,
                reason="safetensors is not installed",
                remedy="pip install safetensors",
            )
        return Availability(available=True)

    def create_engine(self, config: EngineConfig) -> Engine:
        """Load a model."""
        from .engine import load

        return load(config)


@hookimpl
def unillm_create_backend(name: str) -> Backend | None:
    """Create the backend."""
    return NewengineBackend() if name == "newengine" else None
