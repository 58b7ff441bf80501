"""Exports a checkpoint to a graph, with the builder of onnxruntime-genai."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from unillm.backend import (
    ArtifactFolder,
    BuildSpec,
    EngineConfig,
    Progress,
    check_code,
    check_weights,
    read_config,
    run_converter,
)
from unillm.errors import ConfigError


def build_spec(config: EngineConfig) -> BuildSpec:
    """Return all that the graph depends on; works where onnxruntime is missing."""
    if config.dtype not in ("auto", "float32"):
        raise ConfigError(
            f"The backend 'onnxruntime' computes in float32, got {config.dtype!r}."
        )
    check_code(read_config(config.path), name=config.model)
    check_weights(config.path)
    return BuildSpec(
        model=config.model,
        model_path=config.path,
        model_files=ArtifactFolder().digest_model(config.path),
        backend="onnxruntime",
        backend_version="0.1.0",
        engine_version=_version("onnxruntime"),
        device="any",
        dtype="float32",
        # The builder pins other packages than the engine, so it may live elsewhere.
        python=config.backend_options.get("builder_python"),
        remedy='Run: pip install "onnxruntime>=1.24"',
    )


def export(spec: BuildSpec, target: Path, progress: Progress) -> None:
    """Write ``model.onnx`` and its weights into an empty folder."""
    builder = ["-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", "fp32"]
    folders = ["-i", str(spec.model_path), "-o", str(target), "-c", str(target)]
    run_converter(spec, [*builder, *folders], progress)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
