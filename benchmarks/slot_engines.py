# SPDX-License-Identifier: Apache-2.0

"""One engine of the benchmark of the slots, in a process of its own.

    python slot_engines.py ENGINE < requests

Reads lines of JSON: first the engine's options and a warm-up, then workloads. Answers
each with a line of JSON. The script imports unillm for the engines of unillm alone, so
it also runs in an environment without it.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any

Tokens = list[list[int]]


class Engine(abc.ABC):
    """Generates a number of greedy tokens for each prompt, in at most *slots* rows."""

    def __init__(self, path: str, *, slots: int, max_model_len: int) -> None:
        self.path = path
        self.slots = slots
        self.max_model_len = max_model_len
        self.load()

    @abc.abstractmethod
    def load(self) -> None:
        """Load the model."""

    @abc.abstractmethod
    def run(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        """Return the new tokens of each prompt."""

    def time(self, prompts: Tokens, lengths: list[int]) -> tuple[float, float, Tokens]:
        """Return the seconds of the clock and of the processor, and the new tokens."""
        start, used = time.perf_counter(), time.process_time()
        tokens = self.run(prompts, lengths)
        return time.perf_counter() - start, time.process_time() - used, tokens


class Unillm(Engine):
    """`unillm.Generator`, including text; it compiles decode steps at once."""

    enforce_eager = False
    backend_options: Mapping[str, Any] = {"device": "cpu", "compile_after": 0}

    def load(self) -> None:
        from unillm import Generator

        self.generator: Any = Generator(
            self.path, max_model_len=self.max_model_len, **self.options()
        )

    def options(self) -> dict[str, Any]:
        """Return the options that differ between the engines of unillm."""
        return {
            "backend": "transformers",
            "max_num_seqs": self.slots,
            "enforce_eager": self.enforce_eager,
            "backend_options": dict(self.backend_options),
        }

    def run(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        from unillm import SamplingParams

        params = [
            SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
            for length in lengths
        ]
        outputs = self.generator.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


class UnillmDefault(Unillm):
    """`Unillm` with its defaults: a process compiles steps beside a long run."""

    backend_options: Mapping[str, Any] = {"device": "cpu"}


class UnillmPacked(Unillm):
    """`Unillm` with packed weights, and nothing compiled."""

    backend_options: Mapping[str, Any] = {"device": "cpu", "compile_after": None}


class UnillmEager(UnillmDefault):
    """`Unillm` with ``enforce_eager=True``."""

    enforce_eager = True


class CTranslate2(Unillm):
    """`unillm.Generator` on CTranslate2, in runs of *slots* rows."""

    def options(self) -> dict[str, Any]:
        threads = int(os.environ["OMP_NUM_THREADS"])
        return {
            "backend": "ctranslate2",
            "max_num_seqs": self.slots,
            "backend_options": {"device": "cpu", "intra_threads": threads},
        }


class CTranslate2Wide(CTranslate2):
    """`CTranslate2` in runs of as many rows as the backend chooses."""

    def options(self) -> dict[str, Any]:
        return super().options() | {"max_num_seqs": None}


class Vllm(Engine):
    """``vllm.LLM`` in this process, which is its faster mode on a CPU."""

    enforce_eager = False

    def load(self) -> None:
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{int(os.environ['OMP_NUM_THREADS']) - 1}",
        }
        from vllm import LLM

        self.llm: Any = LLM(
            self.path,
            dtype="float32",
            max_num_seqs=self.slots,
            max_model_len=self.max_model_len,
            kv_cache_memory_bytes=2**29,
            enable_prefix_caching=False,
            enforce_eager=self.enforce_eager,
        )

    def run(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        from vllm import SamplingParams

        params = [
            SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
            for length in lengths
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


class VllmEager(Vllm):
    """`Vllm` with ``enforce_eager=True``."""

    enforce_eager = True


class Transformers(Engine):
    """A model of transformers, with its defaults."""

    def load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model: Any = AutoModelForCausalLM.from_pretrained(self.path)
        self.model.generation_config.update(
            do_sample=False, eos_token_id=None, pad_token_id=0
        )


class Static(Transformers):
    """``generate`` with batches in the order of arrival, each to its longest output."""

    def run(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        tokens: Tokens = []
        for start in range(0, len(prompts), self.slots):
            batch = slice(start, start + self.slots)
            tokens += self._generate(prompts[batch], lengths[batch])
        return tokens

    def _generate(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        pairs = list(zip(padding, prompts, strict=True))
        output = self.model.generate(
            self.torch.tensor([[0] * pad + prompt for pad, prompt in pairs]),
            attention_mask=self.torch.tensor(
                [[0] * pad + [1] * len(prompt) for pad, prompt in pairs]
            ),
            max_new_tokens=max(lengths),
        )
        new = output[:, width:].tolist()
        return [ids[:length] for ids, length in zip(new, lengths, strict=True)]


class GenerateBatch(Transformers):
    """The engine of ``generate_batch``, with its own length for each request."""

    def run(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        results: dict[str, list[int]] = {}
        with (
            self.torch.no_grad(),
            self.model.continuous_batching_context_manager(
                continuous_batching_config=ContinuousBatchingConfig(
                    max_requests_per_batch=self.slots,
                    max_batch_tokens=2048,
                    num_blocks=self.slots * -(-self.max_model_len // 32),
                    page_size=32,
                ),
            ) as manager,
        ):
            for number, (prompt, length) in enumerate(
                zip(prompts, lengths, strict=True)
            ):
                manager.add_request(
                    prompt, str(number), max_new_tokens=length, eos_token_id=-1
                )
            while len(results) < len(prompts):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    results[result.request_id] = result.generated_tokens
                elif result is None and not manager.is_running():
                    raise RuntimeError("generate_batch stopped by itself")
        return [results[str(number)] for number in range(len(prompts))]


class Floor(Engine):
    """The forward passes of a workload in unillm, prefill and decode, alone.

    The engine records the passes of a workload and computes them again one after the
    other, without scheduler, sampler of decode steps, driver and text.
    """

    enforce_eager = False

    def load(self) -> None:
        from unillm.embedded.loading import load_engine

        self.engine: Any = load_engine(
            self.path,
            device="cpu",
            max_num_seqs=self.slots,
            max_model_len=self.max_model_len,
            enforce_eager=self.enforce_eager,
            compile_after=None if self.enforce_eager else 0,
        )

    def run(self, prompts: Tokens, lengths: list[int]) -> Tokens:
        from unillm import SamplingParams
        from unillm.engines.base import EngineRequest
        from unillm.scheduling.slots import SlotScheduler

        scheduler = SlotScheduler(self.engine)
        tokens: Tokens = [[] for _ in prompts]
        for number, prompt in enumerate(prompts):
            scheduler.add_request(
                EngineRequest(
                    request_id=str(number),
                    prompt_token_ids=tuple(prompt),
                    params=SamplingParams(temperature=0, max_tokens=None),
                    stop_token_ids=frozenset(),
                    max_new_tokens=lengths[number],
                    seed=0,
                    arrival=number,
                )
            )
        while scheduler.has_unfinished():
            for output in scheduler.step():
                tokens[int(output.request_id)] += output.token_ids
        return tokens

    def time(self, prompts: Tokens, lengths: list[int]) -> tuple[float, float, Tokens]:
        import torch

        calls: list[tuple[str, Any, Any]] = []
        prefill, run = self.engine.prefill, self.engine._runner.run

        def record_prefill(chunks: Any) -> Any:
            calls.append(("prefill", chunks, {}))
            return prefill(chunks)

        def record_run(*args: Any, **kwargs: Any) -> Any:
            calls.append(("run", args, kwargs))
            return run(*args, **kwargs)

        self.engine.prefill = record_prefill
        self.engine._runner.run = record_run
        tokens = self.run(prompts, lengths)
        del self.engine.prefill, self.engine._runner.run
        seconds = cpu_seconds = 0.0
        with torch.inference_mode():
            for kind, given, options in calls:
                start, used = time.perf_counter(), time.process_time()
                if kind == "prefill":
                    prefill(given)
                else:
                    run(*given, **options)
                seconds += time.perf_counter() - start
                cpu_seconds += time.process_time() - used
                for chunk in given if kind == "prefill" else ():
                    self.engine.release(chunk.slot)
        return seconds, cpu_seconds, tokens


class FloorEager(Floor):
    """`Floor` with ``enforce_eager=True``."""

    enforce_eager = True


ENGINES: dict[str, type[Engine]] = {
    "unillm": Unillm,
    "unillm-default": UnillmDefault,
    "unillm-packed": UnillmPacked,
    "unillm-eager": UnillmEager,
    "ctranslate2": CTranslate2,
    "ctranslate2-wide": CTranslate2Wide,
    "static": Static,
    "generate_batch": GenerateBatch,
    "vllm": Vllm,
    "vllm-eager": VllmEager,
    "floor": Floor,
    "floor-eager": FloorEager,
}


def main() -> None:
    """Load an engine, warm it up, and run the workloads of standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine may print to stdout
    first = json.loads(sys.stdin.readline())
    start = time.perf_counter()
    engine = ENGINES[sys.argv[1]](**first["engine"])
    loaded = time.perf_counter()
    engine.time(**first["warm_up"])
    warm = time.perf_counter()
    answer = {"load_s": loaded - start, "warm_up_s": warm - loaded}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        seconds, cpu_seconds, tokens = engine.time(**json.loads(line))
        answer = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "counts": [len(ids) for ids in tokens],
            "checksums": [zlib.crc32(json.dumps(ids).encode()) for ids in tokens],
        }
        print(json.dumps(answer), file=answers, flush=True)
    with contextlib.suppress(AttributeError):
        engine.generator.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
