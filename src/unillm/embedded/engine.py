# SPDX-License-Identifier: Apache-2.0

"""`TransformersSlotEngine`: fixed slots over the stock code of a transformers model.

Each slot has a *row* of the cache. Rows in use are kept as the leading ones, so that a
step costs what its live rows cost; slots keep their number when their row changes.

What holds between two calls:

- every row in use has a slot, and a slot one row at most;
- a row's positions below its `length` hold the keys and values of its request;
- a decode step also computes leading rows that were not asked for. Such a row writes
  one position, its next one, which its owner overwrites before reading.

Lengths, tokens and rows are known to the host. The device is waited for once a call,
when the tokens are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    SlotEngine,
    SlotToken,
)
from ..errors import ConfigError, InvalidParameterError, UnsupportedModelError
from ..lora import LoRARequest
from ..model.memory import Limits, MemoryNeeds, needs_of
from ..model.sizes import KvShape
from ..sampling import PromptLogprobs, Sampler
from . import attention, families
from .cache import ChunkStep, PromptStep, SlotCache, Step
from .masks import Mask, Masks
from .memory import asked_bytes, free_bytes, is_out_of_memory, out_of_memory
from .packing import group_by_length, group_by_width, width_for
from .states import layouts_of
from .steps.choosing import make_runner
from .steps.eager import DecodeRunner, forward, only_positions
from .weights.lora import Adapters

_FILLER = 0
"""Id of padding and of rows that nobody asked for; any id would do."""


_Write = Callable[[Sequence[PromptChunk], dict[int, int]], Tensor]


@attrs.define(eq=False)
class _Row:
    """The request in one row."""

    slot: int
    length: int = 0
    """Positions that hold its tokens."""
    last_token: int = _FILLER
    """Not yet in the cache: what the next decode step is fed."""
    adapter: LoRARequest | None = None


class TransformersSlotEngine(SlotEngine):
    """A static batch of *num_slots* rows over a decoder-only language model.

    Takes the model over: its attention implementation is changed, and nobody else may
    use it until the engine is closed. May be built in one thread and used in another.

    Args:
        model: A ``*ForCausalLM`` of a supported family, on its device, in its dtype.
        num_slots: Rows.
        max_model_len: Prompt and new tokens of a row.
        max_num_batched_tokens: Prompt tokens of one prefill, for the estimate of what
            fits; whoever schedules keeps to it.
        enforce_eager: Call the model as it is in every step: nothing is compiled,
            recorded or packed for the decode step.
        compile_after: On a CPU, decode steps before they are compiled; `None` compiles
            none.
        max_loras: Adapters at a time; `None` for none at all. With adapters decode
            steps are eager.

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
        compile_after: int | None = None,
        max_loras: int | None = None,
    ) -> None:
        _check_slots(model, num_slots)
        _use_slot_attention(model)
        self._model: Any = model.eval()
        self.num_slots = num_slots
        self.max_model_len = max_model_len
        self.vocab_size: int = model.get_output_embeddings().weight.shape[0]
        self._device: torch.device = model.device
        self._masks = Masks.of(model)
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
        self._cache = _allocate(model, self._needs, self._limits)
        self._adapters: Adapters | None = None
        if max_loras is not None:
            self._adapters = Adapters(model, max_loras=max_loras)
        with self._memory_told("Preparing decode steps"):
            self._runner: DecodeRunner | None = make_runner(
                model,
                self._cache,
                self._masks,
                enforce_eager=enforce_eager
                or self._adapters is not None
                or self._cache.is_recurrent
                or self._masks.exact,
                compile_after=compile_after,
            )
        self._sampler = Sampler(
            num_slots=num_slots, vocab_size=self.vocab_size, device=self._device
        )
        self._rows: list[_Row | None] = [None] * num_slots
        self._prompt_logprobs: dict[int, list[TokenLogprobs]] = {}  # of one prefill
        self._row_of: dict[int, int] = {}
        self.splits_prompts = not self._cache.is_recurrent
        self.max_loras = self._adapters.max_loras if self._adapters else None

    @override
    def check_request(self, request: EngineRequest) -> None:
        if request.lora_request is not None:
            assert self._adapters is not None, "an adapter where there are none"
            self._adapters.check(request.lora_request)

    # ------------------------------------------------------------------------ prefill

    @override
    def prefill(self, chunks: Sequence[PromptChunk]) -> PrefillResult:
        count = sum(chunk.end - chunk.start for chunk in chunks)
        with self._memory_told(f"A prefill of {count} tokens"), torch.inference_mode():
            fresh = [chunk for chunk in chunks if chunk.is_first]
            self._admit(fresh)
            refused = self._load_adapters(fresh)
            padding: dict[int, int] = {}
            self._prompt_logprobs = {}
            sampled: list[int] = []
            logits: list[Tensor] = []
            left = [chunk for chunk in chunks if chunk.slot not in refused]
            for group, write in self._passes(left):
                sampled += [chunk.slot for chunk in group if chunk.is_last]
                logits.append(write(group, padding))
            tokens = refused
            if sampled:
                tokens |= self._sample(torch.cat(logits), sampled)
        return PrefillResult(
            tokens=[tokens.get(chunk.slot) for chunk in chunks],
            padding=[padding.get(chunk.slot, 0) for chunk in chunks],
            prompt_logprobs=[self._prompt_logprobs.get(chunk.slot) for chunk in chunks],
        )

    def _admit(self, chunks: Sequence[PromptChunk]) -> None:
        """Give each new owner the first free row, with nothing in it."""
        free = [row for row, owner in enumerate(self._rows) if owner is None]
        rows = free[: len(chunks)]
        for chunk, row in zip(chunks, rows, strict=True):
            assert chunk.slot not in self._row_of, "a held slot was given away"
            self._rows[row] = _Row(chunk.slot, adapter=chunk.request.lora_request)
            self._row_of[chunk.slot] = row
            self._sampler.assign(chunk.slot, chunk.request)
        self._cache.clear(rows)

    def _load_adapters(self, chunks: Sequence[PromptChunk]) -> dict[int, SlotToken]:
        """Load what new owners need; return errors of those whose adapter is broken."""
        refused = {}
        for chunk in chunks:
            adapter = chunk.request.lora_request
            if adapter is None or self._adapters is None:
                continue
            in_use = (row.adapter for row in self._rows if row)
            try:
                self._adapters.load(adapter, in_use=in_use)
            except InvalidParameterError as error:
                refused[chunk.slot] = SlotToken(_FILLER, error=str(error))
        return refused

    def _passes(
        self, chunks: Sequence[PromptChunk]
    ) -> Iterator[tuple[list[PromptChunk], _Write]]:
        """Yield the chunks of each forward pass, and what computes them."""
        fresh = [chunk for chunk in chunks if chunk.is_first]
        packed = [c for c in fresh if c.request.params.prompt_logprobs is None]
        if packed and self._tokens_for(packed) is not None:
            yield packed, self._write_packed
            fresh = [chunk for chunk in fresh if chunk not in packed]
        group = group_by_length if self._cache.is_recurrent else group_by_width
        for indices in group([chunk.end for chunk in fresh]):
            yield [fresh[index] for index in indices], self._write
        for chunk in chunks:
            if not chunk.is_first:
                yield [chunk], self._write

    def _tokens_for(self, chunks: Sequence[PromptChunk]) -> int | None:
        """Return how many tokens the runner computes for fresh chunks, if any."""
        assert self._runner is not None, "the engine is closed"
        return self._runner.tokens_for(sum(chunk.end for chunk in chunks))

    def _write_packed(
        self, group: Sequence[PromptChunk], padding: dict[int, int]
    ) -> Tensor:
        """Compute fresh chunks in one pass of the runner; as `_write`."""
        assert self._runner is not None, "the engine is closed"
        rows = [self._row_of[chunk.slot] for chunk in group]
        logits = self._runner.write_prompts(rows, [c.token_ids for c in group])
        for row, chunk in zip(rows, group, strict=True):
            self._cache.note_written(row, chunk.end)
            self._held(row).length = chunk.end
        # Where there is any, it is nobody's own.
        tokens = self._tokens_for(group) or 0
        padding[group[0].slot] = tokens - sum(chunk.end for chunk in group)
        ends = [index for index, chunk in enumerate(group) if chunk.is_last]
        return logits if len(ends) == len(group) else logits[self._tensor(ends)]

    def _width(self, group: Sequence[PromptChunk]) -> int:
        """Return how many positions of each row a pass computes."""
        length = max(chunk.end - chunk.start for chunk in group)
        if self._cache.is_recurrent:
            return length
        # What continues a prompt is alone in its pass: nothing to be as wide as.
        return width_for(length, self.max_model_len) if group[0].is_first else length

    def _write(self, group: Sequence[PromptChunk], padding: dict[int, int]) -> Tensor:
        """Compute chunks that begin at the same position.

        Args:
            group: Chunks.
            padding: By slot; what is computed for nothing is noted in it.

        Returns:
            ``[chunks that end a prompt, vocab]``: logits of their last tokens.
        """
        width = self._width(group)
        rows = [self._row_of[chunk.slot] for chunk in group]
        start = group[0].start
        lengths = [chunk.end - chunk.start for chunk in group]
        ids = [
            (*chunk.token_ids, *[_FILLER] * (width - length))
            for chunk, length in zip(group, lengths, strict=True)
        ]
        ends = [(i, lengths[i] - 1) for i, chunk in enumerate(group) if chunk.is_last]
        asked = PromptLogprobs.of(group)
        positions = torch.arange(start, start + width, device=self._device)
        step: Step
        mask: Mask
        if start:
            seen = self._masks.seen(start + width)
            step = ChunkStep(row=rows[0], start=start, end=start + width, seen=seen)
            mask = self._masks.for_cached(positions[None], seen)
        else:
            step = PromptStep(self._tensor(rows), width=width)
            mask = self._masks.for_prompts(len(group), width)
        places = self._tensor([*ends, *asked.places])
        owners = [self._held(row) for row in rows]
        head = self._model.get_output_embeddings()
        with self._adapters_of(owners), only_positions(head, places):
            logits = forward(
                self._model,
                self._cache,
                step,
                ids=self._tensor(ids),
                positions=positions.expand(len(group), -1),
                mask=mask,
            )
        for row, owner, chunk in zip(rows, owners, group, strict=True):
            padding[chunk.slot] = width - (chunk.end - chunk.start)
            self._cache.note_written(row, start + width)
            owner.length = chunk.end
        self._prompt_logprobs |= asked.read(logits[len(ends) :])
        return logits[: len(ends)]

    # ------------------------------------------------------------------------- decode

    @override
    def decode(self, slots: Sequence[int]) -> Sequence[SlotToken]:
        if not slots:
            return []
        with self._memory_told("A decode step"), torch.inference_mode():
            self._compact()
            rows = sorted(self._row_of[slot] for slot in slots)
            logits, best = self._advance(rows)
            tokens = self._sample(logits, [self._held(row).slot for row in rows], best)
        return [tokens[slot] for slot in slots]

    def _compact(self) -> None:
        """Move the last rows into gaps, so that those in use are the leading ones.

        Nothing waits for these gaps, or a prefill had filled them; and a row is moved
        for about what one step over the gap would cost.
        """
        live = sum(row is not None for row in self._rows)
        gaps = [place for place in range(live) if self._rows[place] is None]
        last = [place for place in range(live, len(self._rows)) if self._rows[place]]
        for gap, place in zip(gaps, last, strict=True):
            row = self._held(place)
            self._cache.move(place, gap, row.length)
            self._rows[gap], self._rows[place] = row, None
            self._row_of[row.slot] = gap

    def _advance(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Feed each of *rows* (ascending) its last token.

        Returns:
            ``[rows, vocab]``, and their highest as in `DecodeRunner.best`.
        """
        assert self._runner is not None, "the engine is closed"
        count = self._runner.rows_for(rows[-1] + 1)
        owners = [owner or _Row(slot=-1) for owner in self._rows[:count]]
        ids, positions = self._tensor(
            [[o.last_token for o in owners], [o.length for o in owners]]
        )
        seen = max(owners[row].length for row in rows) + 1
        with self._adapters_of(owners):
            logits = self._runner.run(ids, positions, seen=seen)
        for row, owner in enumerate(owners):
            self._cache.note_written(row, owner.length + 1)
        for row in rows:
            owners[row].length += 1
        best = self._runner.best
        if len(rows) < count:
            chosen = self._tensor(rows)
            logits, best = logits[chosen], None if best is None else best[:, chosen]
        return logits, best

    # -------------------------------------------------------------------------- both

    def _adapters_of(self, owners: Sequence[_Row]) -> AbstractContextManager[None]:
        """Compute the rows of the next forward pass with the adapters of *owners*."""
        if self._adapters is None:
            return nullcontext()
        return self._adapters.rows([owner.adapter for owner in owners])

    def _sample(
        self, logits: Tensor, slots: Sequence[int], best: Tensor | None = None
    ) -> dict[int, SlotToken]:
        """Choose a token for each row of logits, and note it as the row's last."""
        sampled = self._sampler.sample(logits, slots, best=best)
        tokens = dict(zip(slots, sampled, strict=True))
        for slot, token in tokens.items():
            if token.error is None:
                self._held(self._row_of[slot]).last_token = token.token_id
        return tokens

    @override
    def release(self, slot: int) -> None:
        self._rows[self._row_of.pop(slot)] = None
        self._sampler.release(slot)

    @override
    def close(self) -> None:
        self._model = self._runner = self._adapters = None
        self._cache.free()
        self._sampler.close()

    def _held(self, row: int) -> _Row:
        owner = self._rows[row]
        assert owner is not None
        return owner

    @contextmanager
    def _memory_told(self, doing: str) -> Iterator[None]:
        """Turn running out of memory into an error that says what takes it."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            needed = self._needs.estimate(self._limits)
            raise out_of_memory(
                f"{doing} ran out of memory",
                needs=self._needs,
                limits=self._limits,
                device=self._device,
                loaded_bytes=needed.weight_bytes + needed.cache_bytes,
                asked=asked_bytes(error),
            ) from error

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        """Put host integers on the device without waiting for it."""
        tensor = torch.tensor(values, dtype=torch.int64)
        return tensor.to(self._device, non_blocking=True)


def _check_slots(model: Any, num_slots: int) -> None:
    """Refuse more than one slot of a family whose rows would not be independent."""
    family = model.config.get_text_config(decoder=True).model_type
    if num_slots > 1 and (reason := families.ONE_AT_A_TIME.get(family)):
        raise ConfigError(
            f"max_num_seqs={num_slots} was asked for, and {family!r} is served one "
            f"request at a time: {reason}. Pass max_num_seqs=1, or leave it out."
        )


def _use_slot_attention(model: Any) -> None:
    """Make the model attend through `attention.slot_attention`, if it is to."""
    config = model.config.get_text_config(decoder=True)
    if config.model_type in families.OWN_ATTENTION | families.CACHE_ARGUMENTS.keys():
        return
    model.set_attn_implementation(attention.NAME)
    # A model outside the attention interface keeps its own code whatever it was told.
    used = config._attn_implementation  # noqa: SLF001
    if used != attention.NAME:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not use transformers' attention interface "
            f"(it attends through {used!r}), so rows of different lengths cannot be "
            "kept in one cache."
        )


def _allocate(model: Any, needs: MemoryNeeds, limits: Limits) -> SlotCache:
    """Make the cache, or say with numbers why it does not fit."""
    needed = needs.estimate(limits)
    too_much = out_of_memory(
        "The cache does not fit",
        needs=needs,
        limits=limits,
        device=model.device,
        loaded_bytes=needs.weight_bytes,
    )
    # An operating system that overcommits would give the memory, and kill the process
    # when it is written to.
    if needed.cache_bytes > free_bytes(model.device):
        raise too_much
    try:
        return SlotCache(
            KvShape.of(model.config),
            num_rows=limits.max_num_seqs,
            max_model_len=limits.max_model_len,
            dtype=model.dtype,
            device=model.device,
            layouts=layouts_of(model),
        )
    except RuntimeError as error:
        raise too_much from error
