# SPDX-License-Identifier: Apache-2.0

"""The ``config.json`` of an engine directory, read as data.

References:
    ``trtllm-build`` writes ``version``, ``pretrained_config`` and ``build_config``
    (``tensorrt_llm/builder.py``, `EngineConfig`). The test for in-flight batching is
    that of ``cpp/include/tensorrt_llm/runtime/modelConfig.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from unillm.backend import find_config
from unillm.errors import ModelLoadError

_BEFORE_0_8 = "builder_config"
_MAX_SIZE = 2**31 - 1


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
            ModelLoadError: It is missing or older than 0.8; or a field is missing, has
                the wrong type or is out of bounds.
        """
        file = path / "config.json"
        config = find_config(path)
        if config is None:
            raise ModelLoadError(f"{path} has no {file.name}, so it is not an engine.")
        if _BEFORE_0_8 in config:
            raise ModelLoadError(
                f"{path} was built by a TensorRT-LLM before 0.8, whose config.json has "
                "another form. Build the engine again with the version that is "
                "installed."
            )
        top = _Part(file, "", config)
        model, build = top.part("pretrained_config"), top.part("build_config")
        mapping = model.part("mapping", {})
        plugins = build.part("plugin_config", {}).content
        packed = bool(plugins.get("remove_input_padding"))
        longest = build.size("max_input_len")
        return cls(
            path=path,
            version=top.text("version"),
            dtype=model.text("dtype"),
            quantization=model.part("quantization", {}).text("quant_algo", None),
            vocab_size=model.size("vocab_size"),
            world_size=mapping.size("world_size", 1),
            tensor_parallel_size=mapping.size("tp_size", 1),
            pipeline_parallel_size=mapping.size("pp_size", 1),
            max_batch_size=build.size("max_batch_size"),
            max_input_len=longest,
            max_seq_len=build.size("max_seq_len"),
            max_num_tokens=build.size("max_num_tokens", longest),
            inflight=_is_inflight(build.content, plugins),
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


_REQUIRED: Any = object()


@attrs.frozen
class _Part:
    """An object of the file; its fields are read with their full names in errors."""

    file: Path
    prefix: str
    content: Mapping[str, Any]

    def part(self, name: str, default: Any = _REQUIRED) -> _Part:
        value = self._read(name, "an object", lambda v: isinstance(v, Mapping), default)
        return _Part(self.file, f"{self.prefix}{name}.", value)

    def size(self, name: str, default: Any = _REQUIRED) -> int:
        expected = f"an integer from 1 to {_MAX_SIZE:,}"
        return int(self._read(name, expected, _is_size, default))

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        return self._read(name, "a text", lambda v: isinstance(v, str), default)

    def _read(
        self, name: str, expected: str, fits: Callable[[Any], bool], default: Any
    ) -> Any:
        """Return a field; *default* where it is missing or `None`."""
        value = self.content.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if fits(value):
            return value
        shown = repr(value)[:80] if name in self.content else "nothing"
        raise ModelLoadError(
            f"{self.file} is not an output of trtllm-build: {self.prefix}{name} must "
            f"be {expected}, got {shown}. Build the engine again, or copy the whole "
            "directory."
        )


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MAX_SIZE


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
