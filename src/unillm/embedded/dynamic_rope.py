# SPDX-License-Identifier: Apache-2.0

"""Rotary embeddings with dynamic scaling, by the length of each row.

Beyond the context that it was trained on, such a model rotates by frequencies of the
length that it has reached. transformers computes them for the longest row of a step and
keeps them for later steps, so the tokens of a request would depend on the others. Here
each row has the frequencies that it has alone: those of its whole prompt while that is
prefilled, and of each new length then.

References:
    ``dynamic_rope_update`` and ``_compute_dynamic_ntk_parameters``, transformers 5.19.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

_KIND = "dynamic"


def is_dynamic(model: Any) -> bool:
    """Whether a model has rotary embeddings whose frequencies follow the length."""
    return any(True for _ in _rotary_modules(model))


class LengthsOfRows:
    """Lengths that the rotary embeddings of a model scale its rows by.

    Args:
        model: A model whose rotary embeddings are changed, if they scale dynamically.
    """

    def __init__(self, model: Any) -> None:
        self._prompts: Sequence[int] | None = None
        for rotary in _rotary_modules(model):
            # Its own forward, without transformers' update of the frequencies.
            rotate = inspect.unwrap(type(rotary).forward)
            rotary.forward = partial(self._forward, rotary, partial(rotate, rotary))

    @contextmanager
    def of_prompts(self, lengths: Sequence[int]) -> Iterator[None]:
        """Scale each row of a prefill by the length of its whole prompt."""
        self._prompts = lengths
        try:
            yield
        finally:
            self._prompts = None

    @torch.no_grad()
    def _forward(
        self, rotary: Any, rotate: Any, x: Tensor, position_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each ``[rows, tokens, dim]``."""
        lengths = self._prompts
        if lengths is None:
            lengths = (position_ids.amax(dim=-1) + 1).tolist()
        shortest = int(rotary.original_max_seq_len)
        rows_of: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            rows_of.setdefault(max(length, shortest), []).append(row)
        parts: list[tuple[Tensor, Tensor]] = []
        for length, rows in rows_of.items():
            rotary.inv_freq = _frequencies(rotary, length, x.device)
            parts.append(rotate(x[rows], position_ids[rows]))
        order = torch.tensor([row for rows in rows_of.values() for row in rows])
        back = order.argsort().to(x.device)
        cosines, sines = (torch.cat(each)[back] for each in zip(*parts, strict=True))
        return cosines, sines


def _rotary_modules(model: Any) -> Iterator[Any]:
    for module in model.modules():
        if getattr(module, "rope_type", None) == _KIND:
            yield module


def _frequencies(rotary: Any, length: int, device: torch.device) -> Tensor:
    if length <= rotary.original_max_seq_len:
        original: Tensor = rotary.original_inv_freq
        return original.to(device)
    compute: Any = ROPE_INIT_FUNCTIONS[_KIND]
    found: Tensor = compute(rotary.config, device, seq_len=length)[0]
    return found
