# SPDX-License-Identifier: Apache-2.0

"""Programs for vLLM with a model that is here: every hub id becomes ``unillm/tiny``.

A download becomes an adapter for it.

`scripts/vllm_programs.py` starts vLLM's examples and tests with it, so that they need
neither network nor GPU. ``python scripts/vllm_stand_ins.py PROGRAM ARGUMENT…`` runs an
example; ``pytest -p vllm_stand_ins`` runs tests.

The stand-in is the bundled model with more positions, because programs ask for long
contexts. What a program then generates has no meaning; that it gets through does.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import unillm.vllm_api
from unillm.backend import find_model

POSITIONS = 8192
CACHE_BYTES = 64 << 20


@functools.cache
def stand_in() -> str:
    """Return the directory of the model."""
    folder = Path(tempfile.gettempdir()) / f"unillm-tiny-{POSITIONS}-{os.getuid()}"
    if not folder.is_dir():
        made = Path(tempfile.mkdtemp())
        shutil.copytree(find_model("unillm/tiny"), made, dirs_exist_ok=True)
        config = json.loads((made / "config.json").read_text("utf-8"))
        config["max_position_embeddings"] = POSITIONS
        (made / "config.json").write_text(json.dumps(config), "utf-8")
        made.rename(folder)
    return str(folder)


@functools.cache
def adapter() -> str:
    """Return the directory of a LoRA adapter that changes nothing."""
    import torch
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp())
    config = json.loads(Path(stand_in(), "config.json").read_text("utf-8"))
    hidden, out = config["hidden_size"], config["hidden_size"]
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {
            f"{name}.lora_A.weight": torch.zeros(8, hidden),
            f"{name}.lora_B.weight": torch.zeros(out, 8),
        },
        folder / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    settings |= {"target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    return str(folder)


def local(name: Any) -> Any:
    """Return the stand-in for a name that is not a directory."""
    return name if name is None or Path(str(name)).is_dir() else stand_in()


class LLM(unillm.LLM):
    """`unillm.LLM` on the stand-in."""

    def __init__(self, model: Any = None, **options: Any) -> None:
        # Options of the named model do not fit the stand-in.
        for name in ("tokenizer", "quantization", "hf_overrides", "revision"):
            options.pop(name, None)
        options.setdefault("kv_cache_memory_bytes", CACHE_BYTES)
        if os.environ.get("UNILLM_BACKEND") == "vllm":  # it compiles for a minute
            options["enforce_eager"] = True
        options["max_model_len"] = min(
            options.get("max_model_len") or POSITIONS, POSITIONS
        )
        super().__init__(local(model), **options)


def install() -> None:
    """Let this process import unillm as ``vllm``, with stand-ins for all models."""
    unillm.vllm_api.install()
    import huggingface_hub
    import transformers

    for name in (
        *("unillm", "unillm.vllm_api", "unillm.vllm_api.engine.llm_engine"),
        *("unillm.vllm_api.entrypoints.llm", "vllm", "vllm.entrypoints.llm"),
    ):
        import_module(name).LLM = LLM  # type: ignore[attr-defined]
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
        kind = getattr(transformers, name)
        kind.from_pretrained = _localised(kind.from_pretrained)
    huggingface_hub.snapshot_download = lambda *_, **__: adapter()


def _localised(load: Any) -> Any:
    @functools.wraps(load)
    def from_pretrained(name: Any, *args: Any, **options: Any) -> Any:
        return load(local(name), *args, **options)

    return from_pretrained


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    install()
    runpy.run_path(sys.argv[0], run_name="__main__")
elif "pytest" in sys.modules:
    install()
