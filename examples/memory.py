# SPDX-License-Identifier: Apache-2.0

"""Say what a model takes of memory before it is loaded, and what would fit."""

from __future__ import annotations

import unillm
from unillm.backend import Limits, find_model, largest_limits, memory_needs

MIB = 2**20


def main() -> None:
    """Read the headers of the weights; load nothing."""
    report = unillm.inspect_model("unillm/tiny", slots=8, length=256)
    memory = report.memory
    assert memory is not None, report.memory_refusal
    print(f"weights: {memory.weight_bytes / MIB:.1f} MiB")
    print(f"cache: {memory.kv_bytes / MIB:.1f} MiB for 8 slots of 256 tokens")
    print(f"activations: {memory.activation_bytes / MIB:.1f} MiB in a step")

    needs = memory_needs(find_model("unillm/tiny"))
    asked = Limits(max_num_seqs=64, max_model_len=1024, max_num_batched_tokens=2048)
    print(
        f"{asked.max_num_seqs} slots take {needs.estimate(asked).total_bytes:,} bytes"
    )
    for name, value in largest_limits(needs, asked, 64 * MIB).items():
        print(f"in 64 MiB, with the others as they are: {name}={value}")


if __name__ == "__main__":
    main()
