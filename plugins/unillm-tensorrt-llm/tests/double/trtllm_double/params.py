# SPDX-License-Identifier: Apache-2.0

"""``SamplingParams`` of the current version (§3)."""

from __future__ import annotations

import os
from types import SimpleNamespace

from packaging.version import Version

from . import names
from .profiles import current

_OLD_NAMES = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_length",
    "seed": "random_seed",
}
"""The only names up to 0.12; beside the new ones, and unset, to 0.17 (§1.3)."""


def make_sampling_params():
    """Make the class: keyword-only, with slots, strict (§3).

    An unknown name is a TypeError (§1.3).
    """
    return names.make_dataclass(
        "SamplingParams", bases=(_Checked,), kw_only=True, slots=True
    )


class _Checked:
    __slots__ = ()

    def __post_init__(self):
        """Fill in and check as ``sampling_params.py`` does."""
        if self.pad_id is None:
            self.pad_id = self.end_id
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
        if Version(current().version) >= Version("1.3.0rc20"):  # 2026 (§3)
            if self.top_p is not None and not 0 <= self.top_p <= 1:
                raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
            if self.temperature is not None and self.temperature < 0:
                raise ValueError(
                    f"require temperature >= 0, got temperature={self.temperature}"
                )
        returns = getattr(self, "best_of", None) or getattr(self, "n", 1)
        allowed = os.environ.get("TLLM_ALLOW_N_GREEDY_DECODING")
        if returns > 1 and _is_greedy(self) and not allowed:
            raise ValueError(
                "Greedy decoding in the LLM API does not allow multiple returns. "
                f"Please set to best_of=1, got best_of={returns}."
            )


def _is_greedy(params) -> bool:
    unset = params.temperature is None and params.top_k is None and params.top_p is None
    return unset or params.top_k == 1 or params.top_p == 0 or params.temperature == 0


def read(params) -> SimpleNamespace:
    """Return the values of a request under the new names; `None` where unset."""
    known = {name: getattr(params, name) for name in params.__dataclass_fields__}
    for new, old in _OLD_NAMES.items():
        if known.get(old) is not None:
            known[new] = known[old]
        known.setdefault(new, None)
    known["greedy"] = _is_greedy(params)
    return SimpleNamespace(**known)


def field(params, name: str, default=None):
    """Return a field that some versions lack."""
    return getattr(params, name, default)
