# SPDX-License-Identifier: Apache-2.0

"""`unillm bench` with the article's preset on models of real shapes.

    python benchmarks/article.py 8b --backend vllm --backend transformers --save out
    python benchmarks/article.py 8b --backend vllm --tensor-parallel 2 --save out-tp2
    python benchmarks/article.py 70b --backend vllm --tensor-parallel 2 --save out-70b
    python benchmarks/article.py small --backend vllm --backend transformers  # a trial

The weights are random, so the answers of two engines soon differ; the speed does not
depend on the weights. The 70B shape is too large to write: its file has the headers
alone and no blocks on the disk, and vLLM fills the memory with its own random weights
(``load_format="dummy"``). ``--model`` names another folder than the one in memory.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h100 import LLAMA_8B, SMALL, make_model

from unillm.bench import Plan, Side, article, measure
from unillm.bench.files import save

LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
SHAPES: dict[str, dict[str, int]] = {"8b": LLAMA_8B, "70b": LLAMA_70B, "small": SMALL}
WITHOUT_WEIGHTS = {"70b"}
MAX_MODEL_LEN = 1024


def make_headers(folder: Path, shape: Mapping[str, int]) -> None:
    """Write a model whose weights are zeros that take no space on the disk."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {**SMALL, "vocab_size": shape["vocab_size"]}
    make_model(folder, small, "cpu")  # the tokenizer, and a configuration to change
    config = AutoConfig.from_pretrained(folder)
    config.update(dict(shape))
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in model.state_dict().items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def side(name: str, args: argparse.Namespace) -> Side:
    """Return a side with the options that its engine needs."""
    options: dict[str, Any] = {
        "backend": name,
        "dtype": "bfloat16",
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": 8,
    }
    if name == "vllm":
        options["gpu_memory_utilization"] = args.gpu_memory
        options["tensor_parallel_size"] = args.tensor_parallel
        if args.shape in WITHOUT_WEIGHTS:
            options["backend_options"] = {"load_format": "dummy"}
    if args.cpu:
        del options["dtype"]
        options.pop("gpu_memory_utilization", None)
        if name == "vllm":
            options["enforce_eager"] = True
            options["backend_options"] = {"kv_cache_memory_bytes": 2**26}
    label = name if args.tensor_parallel == 1 else f"{name} tp {args.tensor_parallel}"
    return Side(label=label, options=options)


def main() -> None:
    """Make the model if needed, measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--backend", action="append", required=True)
    parser.add_argument("--model", type=Path, help="folder of the model")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--gpu-memory", type=float, help="share of a GPU for vLLM")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--cpu", action="store_true", help="a trial without a GPU")
    args = parser.parse_args()
    if args.gpu_memory is None:
        # Two engines share the card; the other one takes what its model needs.
        args.gpu_memory = 0.9 if len(args.backend) == 1 else 0.4
    folder = args.model or Path(f"/dev/shm/llama-{args.shape}")  # noqa: S108
    if not (folder / "config.json").exists():
        if args.shape in WITHOUT_WEIGHTS:
            make_headers(folder, SHAPES[args.shape])
        else:
            make_model(folder, SHAPES[args.shape], "cpu" if args.cpu else "cuda")
    workload, cases = article()
    report = measure(
        Plan(
            model=str(folder),
            sides=[side(name, args) for name in args.backend],
            workload=workload,
            cases=cases,
            rounds=args.rounds,
        ),
        say=lambda line: print(line, file=sys.stderr),
    )
    if args.save is not None:
        save(report, args.save)
    for result in report.results:
        output = result.figure("output")
        assert output is not None
        share = (
            "no bound" if output.share is None else f"{output.share:.1%} of the bound"
        )
        verdict = "valid" if result.is_valid else result.reasons
        print(
            f"{result.case.name}, {result.side}: {output.spread.median:.1f} tokens/s "
            f"({output.spread.smallest:.1f} to {output.spread.largest:.1f}), {share}, "
            f"{verdict}"
        )
    print(report.to_json())


if __name__ == "__main__":
    main()
