# SPDX-License-Identifier: Apache-2.0

"""Attention on a CPU in which each token reads its own range of the cache.

In a compiled decode step, a row has one token; in a pass that also computes prompts, it
has several (`steps.joined`). Keys and values of a row lie one after the other.

That takes half of the time of torch's FlexAttention, compiled, in eight rows of float32
on two threads (``benchmarks/attention.py``, AMD EPYC with AVX-512).

Instead of a mask the model passes *ranges* on, ``[1, 1, 3, tokens]`` of int64: the row
of each token, the first position that it sees, and one more than the last.

The operator is C++ (``ranges.cpp``), compiled by torch's own compiler for C++ with the
types of its vectors. Threads share tokens, heads and the parts of long ranges.
"""

from __future__ import annotations

import ctypes
from importlib import resources
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

_NUMBERS = {
    torch.float32: "float",
    torch.bfloat16: "at::BFloat16",
    torch.float16: "at::Half",
}

_library: Any = torch.library.Library("unillm", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "attend_ranges(Tensor query, Tensor key, Tensor value, Tensor ranges, "
    "float scale, float cap) -> Tensor"
)


@attrs.frozen
class Kernel:
    """The type and the sizes that one kernel is compiled for."""

    dtype: torch.dtype
    group: int
    """Heads that share keys and values."""
    dim: int
    """Size of a key."""
    value_dim: int
    """Size of a value."""

    def build(self) -> str:
        """Compile the kernel, and return the path of the library.

        torch keeps what it compiles, so a second call takes no time.

        Raises:
            Exception: The compiler for C++ is missing, or fails.
        """
        # Imported here, because torch's compiler has hundreds of modules.
        from torch._inductor.codecache import CppCodeCache

        code = resources.files(__package__).joinpath("ranges.cpp").read_text("utf-8")
        settings = {
            "GROUP": self.group,
            "DIM": self.dim,
            "VALUE_DIM": self.value_dim,
        }
        lines = [f"#define {name} {value}" for name, value in settings.items()]
        head = "#include <c10/util/BFloat16.h>\n#include <c10/util/Half.h>\n"
        number = f"using Number = {_NUMBERS[self.dtype]};"
        library = CppCodeCache.load("\n".join([head, *lines, number, code]))
        return str(library._name)  # noqa: SLF001 - ctypes has no other name for it

    def load(self, path: str | Path) -> None:
        """Have steps attend by the library that `build` has made."""
        function = ctypes.CDLL(str(path)).attend_ranges
        function.restype = None
        pointers, sizes = [ctypes.c_void_p] * 5, [ctypes.c_long] * 3
        function.argtypes = [*pointers, *sizes, ctypes.c_float, ctypes.c_float]
        _functions[self] = function


_functions: dict[Kernel, Any] = {}


def is_ranges(mask: object) -> bool:
    """Whether a mask of `attention.slot_attention` is ranges."""
    return isinstance(mask, Tensor) and mask.dtype == torch.int64


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ranges: Tensor,
    scale: float | None,
    *,
    cap: float | None,
) -> Tensor:
    """Attend by ranges.

    Args:
        query: ``[rows, heads, 1, dim]``, or ``[1, heads, tokens, dim]``.
        key: ``[rows, kv_heads, positions, dim]``: the leading rows of the cache.
        value: Like the keys.
        ranges: See above.
        scale: Factor of the scores; `None` for ``1 / sqrt(dim)``.
        cap: Bound that scores approach (`attention.slot_attention`).

    Returns:
        Shape of *query*, with vectors of the size of a value.
    """
    rows, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    attended: Tensor = torch.ops.unillm.attend_ranges(
        query.transpose(1, 2).reshape(rows * tokens, kv_heads, -1, dim),
        key,
        value,
        ranges,
        dim**-0.5 if scale is None else scale,
        cap or 0.0,
    )
    return attended.view(rows, tokens, heads, -1).transpose(1, 2)


def _attend(  # noqa: PLR0917 - an operator
    query: Tensor, key: Tensor, value: Tensor, ranges: Tensor, scale: float, cap: float
) -> Tensor:
    tokens, kv_heads, group, dim = query.shape
    assert key.is_contiguous(), "not the leading rows of the cache"
    assert value.is_contiguous(), "not the leading rows of the cache"
    kernel = Kernel(query.dtype, group, dim, value.shape[-1])
    if kernel not in _functions:
        kernel.load(kernel.build())
    query, ranges = query.contiguous(), ranges.contiguous()
    output = query.new_empty(tokens, kv_heads, group, value.shape[-1])
    given = [each.data_ptr() for each in (query, key, value, ranges, output)]
    _functions[kernel](*given, tokens, kv_heads, key.shape[2], scale, cap)
    return output


def _shape(  # noqa: PLR0917 - an operator
    query: Tensor, key: Tensor, value: Tensor, ranges: Tensor, scale: float, cap: float
) -> Tensor:
    del key, ranges, scale, cap
    return query.new_empty(*query.shape[:-1], value.shape[-1])


_library.impl("attend_ranges", _attend, "CPU")
torch.library.register_fake("unillm::attend_ranges", _shape, lib=_library)
