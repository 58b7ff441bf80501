# SPDX-License-Identifier: Apache-2.0

"""Tokens a second on one GPU: vLLM, unillm over vLLM, unillm's own engine, generate.

    python benchmarks/h100.py --engines unillm-vllm vllm unillm generate --rounds 5

    python benchmarks/h100.py --engines vllm unillm --batches 1 8 \
        --prompt-tokens 4000 --new-tokens 200 --max-model-len 4352
    python benchmarks/h100.py --engines vllm unillm --batches 256 --slots 64 \
        --lognormal --max-model-len 1792

A model in memory loads faster: ``--model /dev/shm/llama-8b-random`` (16 GB).

The model has Llama 3.1 8B's shape, random weights and bfloat16. Prompts are random too,
and new in each round, so no engine has their prefixes in its cache. Each engine has its
own process. All processes live at the same time, and each round calls one engine after
the other, so a disturbance of the machine concerns them all. With ``--lognormal`` the
lengths of prompts and of outputs are drawn, with medians of 128 and 67.

The script measures one call with a batch of prompts, including prefill and text. Every
prompt is greedy and receives all its new tokens. The script prints a table, and one
line of JSON with the conditions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
}
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1024,
}
"""For a trial of the script without a GPU."""

SCRATCH = Path(tempfile.gettempdir())

ENGINES = ("vllm", "unillm-vllm", "unillm", "unillm-eager", "generate")
SLOW = frozenset({"generate", "unillm-eager"})
"""Engines that are measured in every third round only."""


# ----------------------------------------------------------------------- the model


def make_model(directory: Path, shape: dict[str, int], device: str) -> None:
    """Write configuration, tokenizer and random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        LlamaConfig,
        PreTrainedTokenizerFast,
    )

    config = LlamaConfig(
        **shape,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    # The tokenizer has as many tokens as the model, each of a few letters.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)}
    vocab |= {f"Ġt{n}": n for n in range(len(letters), shape["vocab_size"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=letters[0], eos_token=letters[1]
    ).save_pretrained(directory)


# ---------------------------------------------------------- the engines, as processes


def vllm_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of vLLM, alone and under unillm.

    Two engines share a GPU, or two of vLLM and two others.
    """
    if args.device == "cpu":
        return {"load_format": "dummy", "kv_cache_memory_bytes": 2**26}
    share = 0.4 if len(args.engines) <= 2 else 0.27
    return {"load_format": "dummy", "gpu_memory_utilization": share}


def greedy(make: Any, lengths: list[int]) -> list[Any]:
    """Return the params of requests that have these numbers of new tokens."""
    return [make(temperature=0, max_tokens=n, ignore_eos=True) for n in lengths]


class Vllm:
    """``vllm.LLM`` with its defaults."""

    def __init__(self, args: argparse.Namespace) -> None:
        from vllm import LLM, SamplingParams

        self.make_params = SamplingParams
        self.llm = LLM(
            str(args.model),
            dtype="bfloat16",
            max_model_len=args.max_model_len,
            max_num_seqs=args.slots,
            **vllm_options(args),
        )

    def run(self, prompts: list[list[int]], lengths: list[int]) -> list[Any]:
        """Return the new tokens of each prompt."""
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = greedy(self.make_params, lengths)
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]


class Unillm:
    """`unillm.Generator` over its own engine."""

    backend = "transformers"
    enforce_eager = False

    def __init__(self, args: argparse.Namespace) -> None:
        from unillm import Generator, SamplingParams

        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        self.make_params = SamplingParams
        self.generator = Generator(
            str(args.model),
            backend=self.backend,
            dtype="bfloat16",
            max_model_len=args.max_model_len,
            max_num_seqs=args.slots,
            enforce_eager=self.enforce_eager,
            backend_options=self.options(args),
        )

    def options(self, args: argparse.Namespace) -> dict[str, Any]:
        """Return the options that only the backend knows."""
        return {"device": args.device}

    def run(self, prompts: list[list[int]], lengths: list[int]) -> list[Any]:
        """Return the new tokens of each prompt."""
        params = greedy(self.make_params, lengths)
        outputs = self.generator.generate(prompts, params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]


class UnillmEager(Unillm):
    """`Unillm` without graphs and compiler."""

    enforce_eager = True


class UnillmVllm(Unillm):
    """`unillm.Generator` over vLLM."""

    backend = "vllm"

    def options(self, args: argparse.Namespace) -> dict[str, Any]:
        """Return the options that only the backend knows."""
        return vllm_options(args)


class Generate:
    """``generate`` of transformers."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.device = args.device
        self.model = AutoModelForCausalLM.from_pretrained(
            args.model, dtype=torch.bfloat16, device_map=args.device
        )
        self.options = {
            "do_sample": False,
            "max_new_tokens": args.new_tokens,
            "min_new_tokens": args.new_tokens,
            "eos_token_id": None,
            "pad_token_id": 0,
        }

    def run(self, prompts: list[list[int]], lengths: list[int]) -> list[Any]:
        """Return the new tokens of each prompt, which all have the same lengths."""
        del lengths
        ids = self.torch.tensor(prompts, device=self.device)
        mask = self.torch.ones_like(ids)
        output = self.model.generate(ids, attention_mask=mask, **self.options)
        return output[:, ids.shape[1] :].tolist()


WORKERS = {
    "vllm": Vllm,
    "unillm-vllm": UnillmVllm,
    "unillm": Unillm,
    "unillm-eager": UnillmEager,
    "generate": Generate,
}


def serve(args: argparse.Namespace) -> None:
    """Run one engine: read batches from stdin, write their seconds to stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine may print to stdout
    begun = time.perf_counter()
    engine = WORKERS[args.worker](args)
    print(time.perf_counter() - begun, file=answers, flush=True)
    for line in sys.stdin:
        prompts, lengths = json.loads(line)
        begun = time.perf_counter()
        tokens = engine.run(prompts, lengths)
        seconds = time.perf_counter() - begun
        assert [len(ids) for ids in tokens] == lengths
        print(seconds, file=answers, flush=True)


class Worker:
    """A process with one engine."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self._log = log.open("w")
        self._process = subprocess.Popen(  # noqa: S603 - this very script
            [sys.executable, __file__, *sys.argv[1:], "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.load_s = self._answer()

    def seconds(self, prompts: list[list[int]], lengths: list[int]) -> float:
        """Run a batch; return its seconds."""
        assert self._process.stdin is not None
        print(json.dumps([prompts, lengths]), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        self._process.kill()
        self._log.close()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died; see {self._log.name}")
        return float(line)


# ------------------------------------------------------------------ the measurement


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load all engines, call them in turn, and return a summary."""
    rng = random.Random(0)
    shape = SMALL if args.small else LLAMA_8B

    sizes = {batch: draw(batch, args) for batch in args.batches}

    def prompts(batch: int) -> list[list[int]]:
        ids = range(shape["vocab_size"])
        return [rng.choices(ids, k=length) for length, _ in sizes[batch]]

    workers = []
    for name in args.engines:
        workers.append(Worker(name, args.logs / f"{name}.log"))
        say(f"{name} loaded in {workers[-1].load_s:.1f} s")
    seconds: dict[str, dict[int, list[float]]] = {
        name: {batch: [] for batch in args.batches} for name in args.engines
    }
    for turn in range(-1, args.rounds):
        for batch in args.batches:
            for worker in workers:
                if worker.name in SLOW and turn % 3 and turn >= 0:
                    continue
                lengths = [length for _, length in sizes[batch]]
                taken = worker.seconds(prompts(batch), lengths)
                if turn >= 0:  # the round before the first one warms up
                    seconds[worker.name][batch].append(taken)
    for worker in workers:
        worker.close()
    return {
        "conditions": conditions(args, shape),
        "load_s": {worker.name: round(worker.load_s, 1) for worker in workers},
        "tokens_per_s": {
            name: {
                batch: round(
                    sum(length for _, length in sizes[batch])
                    / statistics.median(taken),
                    1,
                )
                for batch, taken in batches.items()
            }
            for name, batches in seconds.items()
        },
        "ratios": {
            f"{one}/{other}": {
                batch: round(paired(seconds[other][batch], seconds[one][batch]), 4)
                for batch in args.batches
            }
            for one, other in (
                ("unillm-vllm", "vllm"),
                ("unillm", "vllm"),
                ("unillm", "generate"),
            )
            if {one, other} <= set(args.engines)
        },
        "seconds": seconds,
    }


def draw(batch: int, args: argparse.Namespace) -> list[tuple[int, int]]:
    """Return the tokens of each prompt and of its output, the same in all rounds."""
    if not args.lognormal:
        return [(args.prompt_tokens, args.new_tokens)] * batch
    rng = random.Random(5)
    return [
        (
            min(1000, max(8, int(rng.lognormvariate(4.85, 0.8)))),
            min(700, max(4, int(rng.lognormvariate(4.2, 0.9)))),
        )
        for _ in range(batch)
    ]


def paired(slower: list[float], faster: list[float]) -> float:
    """Return the median ratio of two engines' times, round by round."""
    if len(slower) != len(faster):
        return statistics.median(slower) / statistics.median(faster)
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def conditions(args: argparse.Namespace, shape: dict[str, int]) -> dict[str, Any]:
    """Return the hardware, versions and options of the measurement."""
    import torch

    def known(name: str) -> str | None:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
        return None

    cuda = args.device == "cuda"
    return {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: known(name) for name in ("torch", "transformers", "vllm")},
        "model": shape,
        "dtype": "bfloat16",
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "lognormal": args.lognormal,
        "rounds": args.rounds,
        "max_model_len": args.max_model_len,
        "max_num_seqs": args.slots,
    }


def table(result: dict[str, Any]) -> str:
    """Return the tokens a second as lines of text."""
    batches = next(iter(result["tokens_per_s"].values()))
    lines = [f"{'tokens/s':14}" + "".join(f"{f'batch {b}':>10}" for b in batches)]
    for name, rates in (result["tokens_per_s"] | result["ratios"]).items():
        lines.append(f"{name:18}" + "".join(f"{rate:10}" for rate in rates.values()))
    return "\n".join(lines)


def say(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--lognormal", action="store_true", help="draw all lengths")
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--slots", type=int, help="by default, the largest batch")
    parser.add_argument("--model", type=Path, default=SCRATCH / "llama-8b-random")
    parser.add_argument("--small", action="store_true", help="a model of 1 M weights")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--logs", type=Path, default=SCRATCH)
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.slots = args.slots or max(args.batches)
    return args


def main() -> None:
    """Make the model if it is missing, measure, and print."""
    args = parse()
    if args.worker:
        serve(args)
        return
    if not (args.model / "tokenizer.json").exists():
        shape = SMALL if args.small else LLAMA_8B
        make_model(args.model, shape, args.device)
        say(f"model written to {args.model}")
    result = measure(args)
    say(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
