# SPDX-License-Identifier: Apache-2.0

"""`TransformersSlotEngine`: fixed slots over the stock code of a transformers model.

Each slot has a *row* of the cache. Rows in use are kept as the leading ones, so that a
step costs what its live rows cost; slots keep their number when their row changes. A
free slot's row keeps what it holds, from which new prompts take over their prefixes.

A decode step also computes leading rows that no slot asked for. Such a row writes one
position, its next one, which its owner overwrites before reading.

The host knows lengths and rows, and the device keeps the newest token of each row. So a
step can start before the host has read the tokens of the last one; the host waits for
the device only when it reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor
from typing_extensions import override

from ..engines.base import EngineRequest, TokenLogprobs
from ..engines.slots import (
    DEFAULT_MAX_NUM_BATCHED_TOKENS,
    PrefillResult,
    PromptChunk,
    Results,
    SlotEngine,
    SlotToken,
)
from ..errors import InvalidParameterError
from ..model.memory import Limits, needs_of
from ..sampling.fetch import send
from ..sampling.logprobs import LogprobsMode, PromptLogprobs
from ..sampling.sampler import Choice, Sampler
from . import attention
from .allocation import allocate, check_slots
from .cache import ChunksStep, ChunkStep, PromptStep, Step
from .dynamic_rope import LengthsOfRows
from .grouping import group_by_length, group_by_width, in_parts, padded, width_for
from .masks import Mask, Masks
from .memory import asked_bytes, is_out_of_memory, out_of_memory
from .prefixes import shortest_prefix
from .rows import FILLER, Row, Rows
from .steps import CompileAfter, make_runner
from .steps.eager import forward, only_positions
from .steps.runner import StepRunner
from .weights.lora import Adapters

_Chosen = tuple[Sequence[int], Choice]
"""Slots and their tokens."""


@attrs.define
class _Notes:
    """Results of a prefill besides new tokens, by slot."""

    padding: dict[int, int] = attrs.field(factory=dict)
    prompt_logprobs: dict[int, list[TokenLogprobs]] = attrs.field(factory=dict)
    refused: dict[int, SlotToken] = attrs.field(factory=dict)
    """Errors of broken adapters."""


class TransformersSlotEngine(SlotEngine):
    """A static batch of *num_slots* rows over a decoder-only language model.

    The engine changes the model's attention implementation, so the model has no other
    use until the engine is closed. It may be built in one thread and used in another.

    Args:
        model: A ``*ForCausalLM`` of a supported family, on its device, in its dtype.
        num_slots: Number of rows.
        max_model_len: Prompt and new tokens of a row.
        max_num_batched_tokens: Prompt tokens of one prefill. The scheduler keeps to it;
            the engine estimates with it what fits.
        enforce_eager: Call the model as it is in every step: compile and record
            nothing.
        compile_after: When decode steps are compiled on a CPU (`CompileAfter`).
        max_loras: Adapters at a time; `None` for none at all. With adapters decode
            steps are eager.
        enable_prefix_caching: Take over prefixes from other rows; `None` where the
            model allows it.
        logprobs_mode: What is returned as log-probabilities.

    Raises:
        ConfigError: More than one slot of a family that is served one at a time.
        UnsupportedModelError: The model does not use transformers' attention interface.
        EngineOutOfMemoryError: The cache does not fit.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_slots: int,
        max_model_len: int,
        max_num_batched_tokens: int = DEFAULT_MAX_NUM_BATCHED_TOKENS,
        enforce_eager: bool = False,
        compile_after: CompileAfter = "background",
        max_loras: int | None = None,
        enable_prefix_caching: bool | None = None,
        logprobs_mode: LogprobsMode = "raw_logprobs",
    ) -> None:
        check_slots(model, num_slots)
        attention.use(model)
        self._lengths = LengthsOfRows(model)
        self._model: Any = model.eval()
        self.num_slots = num_slots
        self.max_model_len = max_model_len
        self.vocab_size: int = model.get_output_embeddings().weight.shape[0]
        self._device: torch.device = model.device
        self._masks = Masks.of(model)
        self.shortest_prefix = shortest_prefix(
            model, asked=enable_prefix_caching, by_spans=self._masks.by_spans
        )
        self._needs = needs_of(
            model.config,
            weight_bytes=model.get_memory_footprint(),
            item_bytes=model.dtype.itemsize,
        )
        self._limits = Limits(
            max_num_seqs=num_slots,
            max_model_len=max_model_len,
            max_num_batched_tokens=max_num_batched_tokens,
        )
        self._cache = allocate(model, self._needs, self._limits)
        self.splits_prompts = not self._masks.family.recurrent
        self.max_loras = max_loras
        self._adapters: Adapters | None = None
        if max_loras is not None:
            self._adapters = Adapters(model, max_loras=max_loras)
        with self._explain_out_of_memory("Preparing decode steps"):
            self._runner: StepRunner = make_runner(
                model,
                self._cache,
                self._masks,
                enforce_eager=enforce_eager or self._adapters is not None,
                compile_after=compile_after,
            )
        self.joins_steps = self._runner.continues
        # A step also advances the states of rows that no slot asked for.
        self.starts_ahead = (
            self._device.type == "cuda"
            and not enforce_eager
            and not self._masks.family.recurrent
        )
        self._logprobs_mode = logprobs_mode
        self._sampler = Sampler(
            num_slots=num_slots,
            vocab_size=self.vocab_size,
            device=self._device,
            logprobs_mode=logprobs_mode,
        )
        keeps = self.shortest_prefix is not None
        self._rows = Rows(self._cache, num_slots, keeps=keeps)

    @override
    def check_request(self, request: EngineRequest) -> None:
        if request.lora_request is not None:
            assert self._adapters is not None, "an adapter without enable_lora"
            self._adapters.check(request.lora_request)

    # ------------------------------------------------------------------------ prefill

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        result, _ = self.advance(chunks, ())
        return result

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        _, tokens = self.advance((), slots)
        return tokens

    @override
    def advance(
        self, chunks: Sequence[PromptChunk], slots: Sequence[int]
    ) -> tuple[PrefillResult, Sequence[SlotToken]]:
        return self.start(chunks, slots)()

    @override
    def start(self, chunks: Sequence[PromptChunk], slots: Sequence[int]) -> Results:
        notes = _Notes()
        doing = f"A prefill of {_length(chunks)} tokens" if chunks else "A decode step"
        with self._explain_out_of_memory(doing), torch.inference_mode():
            choices, joined = self._write_prompts(chunks, slots, notes)
            if slots and not joined:
                choices.append(self._decode(slots))
        self.joins_steps = self._runner.continues

        def read() -> tuple[PrefillResult, Sequence[SlotToken]]:
            tokens = dict(notes.refused)
            for chosen, choice in choices:
                tokens.update(zip(chosen, choice.read(), strict=True))
            of_prompts = notes.prompt_logprobs
            result = PrefillResult(
                tokens=[tokens.get(chunk.slot) for chunk in chunks],
                padding=[notes.padding.get(chunk.slot, 0) for chunk in chunks],
                prompt_logprobs=[of_prompts.get(chunk.slot) for chunk in chunks],
            )
            return result, [tokens[slot] for slot in slots]

        return read

    def _write_prompts(
        self, chunks: Sequence[PromptChunk], slots: Sequence[int], notes: _Notes
    ) -> tuple[list[_Chosen], bool]:
        """Write *chunks*, and decode *slots* in the same pass if that is possible.

        Returns:
            Their tokens, and whether *slots* were decoded.
        """
        if not chunks:
            return [], False
        fresh = [chunk for chunk in chunks if chunk.is_first]
        self._admit(fresh)
        notes.refused = self._load_adapters(fresh)
        left = [chunk for chunk in chunks if chunk.slot not in notes.refused]
        together = self._together(left, slots)
        sampled: list[int] = []
        logits: list[Tensor] = []
        if together:
            sampled += [chunk.slot for chunk in together if chunk.is_last]
            sampled += slots
            logits.append(self._write_ragged(together, slots, notes))
            left = [chunk for chunk in left if chunk not in together]
        for group in self._groups(left):
            sampled += [chunk.slot for chunk in group if chunk.is_last]
            logits.append(self._write(group, notes))
        chosen = [self._choose(torch.cat(logits), sampled)] if sampled else []
        return chosen, bool(together)

    def _admit(self, chunks: Sequence[PromptChunk]) -> None:
        """Give new owners their rows."""
        self._rows.admit(chunks)
        for chunk in chunks:
            self._sampler.assign(chunk.slot, chunk.request)

    def _load_adapters(self, chunks: Sequence[PromptChunk]) -> dict[int, SlotToken]:
        """Load the adapters of new owners; return an error for each broken one."""
        refused = {}
        for chunk in chunks:
            adapter = chunk.request.lora_request
            if adapter is None or self._adapters is None:
                continue
            in_use = (row.adapter for row in self._rows.all)
            try:
                self._adapters.load(adapter, in_use=in_use)
            except InvalidParameterError as error:
                refused[chunk.slot] = SlotToken(FILLER, error=str(error))
        return refused

    def _together(
        self, chunks: Sequence[PromptChunk], slots: Sequence[int]
    ) -> list[PromptChunk]:
        """Return the chunks that one pass of the runner computes, beside *slots*."""
        continues = self._runner.continues
        together = [
            chunk
            for chunk in chunks
            if chunk.request.params.prompt_logprobs is None
            and (continues or not chunk.start)
        ]
        fits = self._runner.tokens_for(_length(together)) is not None
        return together if fits and (continues or not slots) else []

    def _groups(self, chunks: Sequence[PromptChunk]) -> Iterator[list[PromptChunk]]:
        """Yield the chunks of each further pass."""
        fresh = [chunk for chunk in chunks if not chunk.start]
        group = group_by_width if self.splits_prompts else group_by_length
        for indices in group([chunk.end for chunk in fresh]):
            yield [fresh[index] for index in indices]
        yield from self._continued([chunk for chunk in chunks if chunk.start])

    def _continued(self, chunks: Sequence[PromptChunk]) -> Iterator[list[PromptChunk]]:
        """Group chunks that see earlier positions of their rows.

        A pass reads a copy of its rows, in each layer. So it takes as many rows as fit
        the estimated memory of the largest pass.
        """
        if self._masks.makes_own:
            yield from ([chunk] for chunk in chunks)
            return
        token_bytes = self._needs.activation_bytes_per_token
        most = self._limits.max_num_batched_tokens * token_bytes
        layers = max(self._cache.shape.layers, 1)
        position_bytes = self._needs.kv_bytes_per_token // layers
        for indices in group_by_width([chunk.end - chunk.start for chunk in chunks]):
            group = [chunks[index] for index in indices]
            seen = self._masks.seen(max(chunk.end for chunk in group))
            row_bytes = self._width(group) * token_bytes + seen * position_bytes
            yield from in_parts(group, most // row_bytes)

    def _write_ragged(
        self, group: Sequence[PromptChunk], slots: Sequence[int], notes: _Notes
    ) -> Tensor:
        """Compute chunks and decode *slots* in one pass of the runner.

        Returns:
            ``[rows, vocab]``: logits of the chunks that end a prompt, then of *slots*.
        """
        rows = [self._rows.of(chunk.slot) for chunk in group]
        decoded = [self._rows.of(slot) for slot in slots]
        numbers = [self._rows.number(row.slot) for row in (*rows, *decoded)]
        logits = self._runner.write_prompts(
            numbers,
            [chunk.token_ids for chunk in group],
            [*(chunk.start for chunk in group), *(row.length for row in decoded)],
            steps=self._rows.last_tokens[self._tensor(numbers[len(group) :])]
            if decoded
            else None,
        )
        for row, chunk in zip(rows, group, strict=True):
            row.length = chunk.end
        for row in decoded:
            row.length += 1
        for number in numbers:
            self._cache.note_written(number, self._rows.all[number].length)
        # All prompts share the padding, so it is counted for the first one.
        length = _length(group)
        computed = self._runner.tokens_for(length, steps=len(slots)) or length
        notes.padding[group[0].slot] = computed - length - len(slots)
        ends = [
            index
            for index in range(len(numbers))
            if index >= len(group) or group[index].is_last
        ]
        return logits if len(ends) == len(numbers) else logits[self._tensor(ends)]

    def _width(self, group: Sequence[PromptChunk]) -> int:
        """Return how many tokens of each row a pass computes."""
        length = max(chunk.end - chunk.start for chunk in group)
        pads = self.splits_prompts and not (group[0].start and self._masks.makes_own)
        return width_for(length, self.max_model_len) if pads else length

    def _write(self, group: Sequence[PromptChunk], notes: _Notes) -> Tensor:
        """Compute chunks in one pass: all of them begin their rows, or none.

        Returns:
            ``[chunks that end a prompt, vocab]``: the logits of their last tokens.
        """
        width = self._width(group)
        rows = [self._rows.number(chunk.slot) for chunk in group]
        owners = [self._rows.all[row] for row in rows]
        lengths = [chunk.end - chunk.start for chunk in group]
        ends = [(i, lengths[i] - 1) for i, chunk in enumerate(group) if chunk.is_last]
        asked = PromptLogprobs.of(group)
        ids, positions, step, mask = self._inputs(group, rows, width)
        wanted = self._tensor([*ends, *asked.places])
        head = self._model.get_output_embeddings()
        prompts = [len(chunk.request.prompt_token_ids) for chunk in group]
        with (
            self._lengths.of_prompts(prompts),
            self._adapters_of(owners),
            only_positions(head, wanted),
        ):
            logits = forward(
                self._model, self._cache, step, ids=ids, positions=positions, mask=mask
            )
        for row, owner, chunk in zip(rows, owners, group, strict=True):
            notes.padding[chunk.slot] = width - (chunk.end - chunk.start)
            written = chunk.end if chunk.start else width
            self._cache.note_written(row, written)
            owner.length = chunk.end
        notes.prompt_logprobs |= asked.read(
            logits[len(ends) :], mode=self._logprobs_mode
        )
        return logits[: len(ends)]

    def _inputs(
        self, group: Sequence[PromptChunk], rows: Sequence[int], width: int
    ) -> tuple[Tensor, Tensor, Step, Mask]:
        """Return ids and positions ``[chunks, width]``, step and mask of a pass."""
        if not group[0].start:
            ids = [padded(chunk.token_ids, width, FILLER) for chunk in group]
            positions = torch.arange(width, device=self._device).expand(len(group), -1)
            mask = self._masks.for_prompts(len(group), width)
            step: Step = PromptStep(self._tensor(rows), width=width)
            return self._tensor(ids), positions, step, mask
        # Padding repeats the last token at its position: it sees what that token sees.
        ids = [padded(chunk.token_ids, width, chunk.token_ids[-1]) for chunk in group]
        positions = self._tensor(
            [padded(range(c.start, c.end), width, c.end - 1) for c in group]
        )
        seen = self._masks.seen(max(chunk.end for chunk in group))
        if len(group) == 1:
            start, end = group[0].start, group[0].end
            step = ChunkStep(row=rows[0], start=start, end=end, seen=seen)
        else:
            step = ChunksStep(self._tensor(rows), positions, seen=seen)
        mask = self._masks.for_cached(positions, seen)
        return self._tensor(ids), positions, step, mask

    # ------------------------------------------------------------------------- decode

    def _decode(self, slots: Sequence[int]) -> _Chosen:
        self._rows.compact(self._runner.rows_for)
        rows = sorted(map(self._rows.number, slots))
        logits, best = self._advance(rows)
        return self._choose(logits, [self._rows.all[row].slot for row in rows], best)

    def _advance(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Feed each of *rows* (ascending) its last token.

        Returns:
            ``[rows, vocab]``, and their `StepRunner.best`.
        """
        count = self._runner.rows_for(rows[-1] + 1)
        owners = self._rows.all[:count]
        positions = [0] * count
        for row in rows:
            positions[row] = owners[row].length
        lengths = [owner.length for owner in owners]
        fed = self._tensor([lengths, positions, lengths])
        fed[0] = self._rows.last_tokens[:count]
        with self._adapters_of(owners):
            logits = self._runner.run(fed, seen=max(positions) + 1)
        for row, owner in enumerate(owners):
            self._cache.note_written(row, owner.length + 1)
        for row in rows:
            owners[row].length += 1
        best = self._runner.best
        if len(rows) < count:
            chosen = self._tensor(rows)
            logits, best = logits[chosen], None if best is None else best[:, chosen]
        return logits, best

    # -------------------------------------------------------------- prefill and decode

    def _adapters_of(self, owners: Sequence[Row]) -> AbstractContextManager[None]:
        """Apply the adapters of *owners* to the rows of the next forward pass."""
        if self._adapters is None:
            return nullcontext()
        return self._adapters.rows([owner.adapter for owner in owners])

    def _choose(
        self, logits: Tensor, slots: Sequence[int], best: Tensor | None = None
    ) -> _Chosen:
        """Choose a token for each row of logits, and record it as the row's last."""
        choice = self._sampler.choose(logits, slots, best=best)
        self._rows.note_tokens(slots, choice.token_ids)
        return slots, choice

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return send(values, self._device)

    @contextmanager
    def _explain_out_of_memory(self, doing: str) -> Iterator[None]:
        """Turn an out-of-memory error into one that names all numbers."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            needed = self._needs.estimate(self._limits)
            if kept := self._rows.kept:
                doing += f" (free rows of the cache keep {kept} tokens of prefixes)"
            raise out_of_memory(
                f"{doing} ran out of memory",
                needs=self._needs,
                limits=self._limits,
                device=self._device,
                loaded_bytes=needed.weight_bytes + needed.cache_bytes,
                asked=asked_bytes(error),
            ) from error

    # ---------------------------------------------------------------------------- end

    @override
    def release(self, slot: int) -> None:
        self._rows.release(slot)
        self._sampler.release(slot)

    @override
    def close(self) -> None:
        self._model = self._adapters = None
        if self._runner is not None:
            self._runner.close()
        self._runner = None  # type: ignore[assignment]  # no call comes after this one
        self._cache.free()
        self._sampler.close()


def _length(chunks: Sequence[PromptChunk]) -> int:
    return sum(chunk.end - chunk.start for chunk in chunks)
