"""A graph of ONNX Runtime in slots: rows that are filled and stepped one by one.

The graph takes the keys and values of earlier tokens as inputs and returns them with
the new ones. Both are bound to one array per layer, so nothing is copied. A row's new
keys are written behind as many as its attention mask counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from unillm.backend import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    ArtifactStore,
    BuildSpec,
    EngineConfig,
    PrefillResult,
    Progress,
    PromptChunk,
    RequestSampler,
    SlotEngine,
    SlotScheduler,
    SlotToken,
    TokenLogprobs,
    check_model_len,
    model_positions,
    token_logprobs,
)

from .building import build_spec


class OnnxEngine(SlotEngine):
    """A graph, and an array of keys and values for all rows.

    Args:
        path: Folder with ``model.onnx``.
        num_slots: Rows.
        max_model_len: Tokens of a row.
    """

    def __init__(self, path: Path, *, num_slots: int, max_model_len: int) -> None:
        self._session = onnxruntime.InferenceSession(str(path / "model.onnx"))
        self.num_slots = num_slots
        self.max_model_len = max_model_len
        [logits] = [o for o in self._session.get_outputs() if o.name == "logits"]
        self.vocab_size = logits.shape[-1]
        pasts = [i for i in self._session.get_inputs() if i.name.startswith("past_")]
        self._layers = [each.name.removeprefix("past_key_values.") for each in pasts]
        genai = json.loads((path / "genai_config.json").read_text())
        decoder = genai["model"]["decoder"]
        heads, size = decoder["num_key_value_heads"], decoder["head_size"]
        shape = (num_slots, heads, max_model_len, size)
        self._cache = [np.zeros(shape, np.float32) for _ in pasts]
        self._lengths = [0] * num_slots
        self._last = [0] * num_slots
        self._samplers: dict[int, RequestSampler] = {}

    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        """Write each chunk into its row."""
        tokens: list[SlotToken | None] = []
        logprobs = []
        for chunk in chunks:
            if chunk.is_first:
                self._lengths[chunk.slot] = 0
                self._samplers[chunk.slot] = RequestSampler(chunk.request)
            rows = slice(chunk.slot, chunk.slot + 1)
            [logits] = self._compute(rows, np.array([chunk.token_ids]), [chunk.end])
            self._lengths[chunk.slot] = chunk.end
            tokens.append(self._next(chunk.slot, logits[-1]) if chunk.is_last else None)
            logprobs.append(_of_prompt(chunk, logits))
        padding = [0] * len(chunks)
        return PrefillResult(tokens=tokens, padding=padding, prompt_logprobs=logprobs)

    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        """Compute all rows at once. The others write where their next token goes."""
        lengths = [min(length + 1, self.max_model_len) for length in self._lengths]
        rows = slice(0, self.num_slots)
        logits = self._compute(rows, np.array(self._last)[:, None], lengths)
        for slot in slots:
            self._lengths[slot] += 1
        return [self._next(slot, logits[slot, -1]) for slot in slots]

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._lengths[slot] = 0
        self._samplers.pop(slot, None)

    def close(self) -> None:
        """Free the model and the cache. A second call does nothing."""
        self._session = None
        self._cache = []
        self._samplers.clear()

    def _next(self, slot: int, logits: np.ndarray) -> SlotToken:
        token = self._samplers[slot].next(logits)
        self._last[slot] = max(token.token_id, 0)  # -1 is an error
        return token

    def _compute(
        self, rows: slice, token_ids: np.ndarray, lengths: Sequence[int]
    ) -> np.ndarray:
        """Return ``[rows, tokens, vocab]``: the logits of new tokens.

        Args:
            rows: Rows of the cache.
            token_ids: ``[rows, tokens]``: the new ones.
            lengths: Tokens of each row, the new ones included.
        """
        binding = self._session.io_binding()
        counts = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
        binding.bind_cpu_input("input_ids", token_ids.astype(np.int64))
        binding.bind_cpu_input("attention_mask", counts.astype(np.int64))
        for name, cache in zip(self._layers, self._cache, strict=True):
            part = cache[rows]
            where = ("cpu", 0, np.float32, part.shape, part.ctypes.data)
            binding.bind_input(f"past_key_values.{name}", *where)
            binding.bind_output(f"present.{name}", *where)
        logits = np.empty((*token_ids.shape, self.vocab_size), np.float32)
        where = ("cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        binding.bind_output("logits", *where)
        self._session.run_with_iobinding(binding)
        return logits


def _of_prompt(chunk: PromptChunk, logits: np.ndarray) -> list[TokenLogprobs] | None:
    """Return the log-probabilities of the prompt tokens that a chunk predicts."""
    count = chunk.request.params.prompt_logprobs
    if count is None:
        return None
    following = chunk.request.prompt_token_ids[chunk.start + 1 : chunk.end + 1]
    return [
        token_logprobs(row, token_id, count)
        for row, token_id in zip(logits, following, strict=False)
    ]


def load(
    config: EngineConfig, *, build: Callable[[BuildSpec, Path, Progress], None]
) -> SlotScheduler:
    """Export the model unless it is stored, and load it."""
    positions = model_positions(config.path)
    check_model_len(config.max_model_len, positions=positions)
    with ArtifactStore().obtain(build_spec(config), build) as artifact:
        engine = OnnxEngine(
            artifact.path,
            num_slots=config.max_num_seqs or 8,
            max_model_len=config.max_model_len or positions,
        )
    budget = config.max_num_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS
    return SlotScheduler(engine, max_num_batched_tokens=budget)
