# SPDX-License-Identifier: Apache-2.0

"""Engine directories: ``config.json`` and ``rank0.engine`` (§6).

The engine itself is a few lines of JSON here: which GPU and TensorRT it was made for,
and where the model is that computes the tokens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from . import names
from .profiles import current

TENSORRT = {
    "0.11": "10.2.0",
    "0.12": "10.3",
    "0.13": "10.4",
    "0.14": "10.4",
    "0.15": "10.6",
    "0.16": "10.7",
    "0.17": "10.8",
    "0.18": "10.9",
    "0.21": "10.11",
}
"""TensorRT by version of TensorRT-LLM (§1.4), that of 0.14 inferred; images of 1.2 have
10.13.3.9."""


def tensorrt_version() -> str:
    return TENSORRT.get(current().version.rpartition(".")[0], "10.13.3.9")


def compute_capability() -> str:
    return os.environ.get("TRTLLM_DOUBLE_COMPUTE", "9.0")


def write(
    target,
    model_path,
    *,
    max_batch_size=8,
    max_input_len=1024,
    max_seq_len=None,
    max_num_tokens=8192,
    dtype="float32",
    inflight=True,
    quant_algo=None,
    gather_generation_logits=False,
    version=None,
    compute=None,
    tensorrt=None,
):
    """Write the files of ``trtllm-build``, which include no tokenizer.

    ``plugin_config.paged_kv_cache`` names the kind of cache before ``kv_cache_type``
    does, which ``BuildConfig`` has from 0.13 on.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((Path(model_path) / "config.json").read_text())
    old = "kv_cache_type=None" not in names.fields("BuildConfig")
    settings = {
        "version": version or current().version,
        "pretrained_config": {
            "architecture": config["architectures"][0],
            "dtype": dtype,
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "num_hidden_layers": config["num_hidden_layers"],
            "num_attention_heads": config["num_attention_heads"],
            "num_key_value_heads": config["num_key_value_heads"],
            "max_position_embeddings": config["max_position_embeddings"],
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
            "quantization": {"quant_algo": quant_algo, "kv_cache_quant_algo": None},
        },
        "build_config": {
            "max_input_len": max_input_len,
            "max_seq_len": max_seq_len or config["max_position_embeddings"],
            "opt_batch_size": 8,
            "max_batch_size": max_batch_size,
            "max_beam_width": 1,
            "max_num_tokens": max_num_tokens,
            **({} if old else {"kv_cache_type": "PAGED" if inflight else "CONTINUOUS"}),
            "gather_context_logits": False,
            "gather_generation_logits": gather_generation_logits,
            "plugin_config": {
                "gpt_attention_plugin": "auto",
                "remove_input_padding": inflight,
                "context_fmha": True,
                "tokens_per_block": 32,
                **({"paged_kv_cache": inflight} if old else {}),
            },
        },
    }
    (target / "config.json").write_text(json.dumps(settings, indent=2))
    (target / "rank0.engine").write_text(
        json.dumps(
            {
                "compute": compute or compute_capability(),
                "tensorrt": tensorrt or tensorrt_version(),
                "model": str(model_path),
            }
        )
    )


class Plan:
    """An opened engine directory."""

    def __init__(self, path):
        self.path = Path(path)
        self.config = json.loads((self.path / "config.json").read_text())
        self.build = self.config["build_config"]
        engine = json.loads((self.path / "rank0.engine").read_text())
        self.model = engine["model"]
        # §6, lock-in: the log and the error.
        if engine["compute"] != compute_capability():
            sys.stderr.write(
                "[TRT] [E] 6: The engine plan file is generated on an incompatible "
                f"device, expecting compute {compute_capability()} got compute "
                f"{engine['compute']}, please rebuild."
            )
            raise AssertionError
        if engine["tensorrt"] != tensorrt_version():
            sys.stderr.write(
                "[TensorRT-LLM][ERROR] 6: The engine plan file is not compatible with "
                "this version of TensorRT, expecting library version "
                f"{tensorrt_version()} got {engine['tensorrt']}, please rebuild."
            )
            raise RuntimeError("Assertion failed: Failed to deserialize cuda engine.")

    @property
    def inflight(self) -> bool:
        """Whether it was built for in-flight batching (``modelConfig.h``)."""
        plugins = self.build["plugin_config"]
        return bool(
            plugins["gpt_attention_plugin"]
            and plugins["remove_input_padding"]
            and (
                self.build.get("kv_cache_type") in ("PAGED", "DISABLED")
                or plugins.get("paged_kv_cache")
            )
        )
