# SPDX-License-Identifier: Apache-2.0

"""The ``config.json`` of an engine directory, read as data.

References:
    ``trtllm-build`` writes ``version``, ``pretrained_config`` and ``build_config``
    (``tensorrt_llm/builder.py``, `EngineConfig`). The test for in-flight batching is
    that of ``cpp/include/tensorrt_llm/runtime/modelConfig.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from unillm.backend import read_json
from unillm.errors import ModelLoadError

_BEFORE_0_8 = "builder_config"


def is_engine_directory(path: Path) -> bool:
    """Whether *path* holds built engines rather than a checkpoint."""
    return any(path.glob("rank*.engine"))


def is_tensorrt_checkpoint(path: Path) -> bool:
    """Whether *path* holds the output of ``convert_checkpoint.py``."""
    return any(path.glob("rank*.safetensors"))


@attrs.frozen(kw_only=True)
class EngineDirectory:
    """A built engine, before it is loaded."""

    path: Path
    version: str
    """Version of the TensorRT-LLM that built it."""
    dtype: str
    quantization: str | None
    """A member of ``QuantAlgo``."""
    vocab_size: int
    world_size: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    inflight: bool
    """Whether it was built for in-flight batching."""
    packed: bool
    """Whether prompts are packed, so that `max_input_len` does not bound them."""

    @classmethod
    def read(cls, path: Path) -> EngineDirectory:
        """Read ``config.json``.

        Raises:
            ModelLoadError: It is missing, broken or older than 0.8.
        """
        file = path / "config.json"
        try:
            config = read_json(path, file.name)
            if config is None:
                raise ModelLoadError(
                    f"{path} has no {file.name}, so it is not an engine."
                )
            if _BEFORE_0_8 in config:
                raise ModelLoadError(
                    f"{path} was built by a TensorRT-LLM before 0.8, whose config.json "
                    "has another form. Build the engine again with the version that "
                    "is installed."
                )
            return cls._of(path, config)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ModelLoadError(
                f"{file} is not an output of trtllm-build: {type(error).__name__}: "
                f"{error}. Build the engine again, or copy the whole directory."
            ) from error

    @classmethod
    def _of(cls, path: Path, config: Mapping[str, Any]) -> EngineDirectory:
        model, build = config["pretrained_config"], config["build_config"]
        mapping = model.get("mapping") or {}
        plugins = build.get("plugin_config") or {}
        packed = bool(plugins.get("remove_input_padding"))
        return cls(
            path=path,
            version=str(config["version"]),
            dtype=model["dtype"],
            quantization=(model.get("quantization") or {}).get("quant_algo"),
            vocab_size=int(model["vocab_size"]),
            world_size=int(mapping.get("world_size", 1)),
            tensor_parallel_size=int(mapping.get("tp_size", 1)),
            pipeline_parallel_size=int(mapping.get("pp_size", 1)),
            max_batch_size=int(build["max_batch_size"]),
            max_input_len=int(build["max_input_len"]),
            max_seq_len=int(build["max_seq_len"]),
            max_num_tokens=int(build.get("max_num_tokens") or build["max_input_len"]),
            inflight=_is_inflight(build, plugins),
            packed=packed and bool(plugins.get("context_fmha")),
        )

    @property
    def longest_prompt(self) -> int:
        """The longest prompt that the C++ runtime takes.

        With packed prompts and fused attention it is ``min(max_seq_len - 1,
        max_num_tokens)``, and the build says that it ignores ``max_input_len`` (issues
        #2693, #3636 and #2451 of NVIDIA/TensorRT-LLM).
        """
        bound = self.max_num_tokens if self.packed else self.max_input_len
        return min(self.max_seq_len - 1, bound)


def _is_inflight(build: Mapping[str, Any], plugins: Mapping[str, Any]) -> bool:
    kind = build.get("kv_cache_type")
    paged = (
        str(kind).upper().rpartition(".")[2] in ("PAGED", "DISABLED")
        if kind
        else bool(plugins.get("paged_kv_cache"))  # before kv_cache_type
    )
    transformer = bool(plugins.get("gpt_attention_plugin"))
    recurrent = bool(plugins.get("mamba_conv1d_plugin"))
    packed = bool(plugins.get("remove_input_padding"))
    return packed and (
        (transformer and paged) or (recurrent and bool(plugins.get("paged_state")))
    )
