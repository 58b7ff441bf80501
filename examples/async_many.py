# SPDX-License-Identifier: Apache-2.0

"""Many requests from one event loop; the engine works on all of them together."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from unillm import Generator, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=100)


async def answer(generator: Generator, prompt: str) -> str:
    """Wait for one answer; the loop does other things meanwhile."""
    [output] = await generator.agenerate(prompt, GREEDY)
    return output.text


async def read(generator: Generator, prompt: str) -> int:
    """Read one answer as it comes; return the number of its pieces."""
    pieces = 0
    async with aclosing(generator.astream(prompt, GREEDY)) as deltas:
        async for _ in deltas:
            pieces += 1
    return pieces


async def main() -> None:
    """Answer and read at the same time."""
    with Generator("unillm/tiny") as generator:
        answers = [answer(generator, f"Add {n} and {n}:") for n in range(1, 9)]
        *sums, pieces = await asyncio.gather(
            *answers, read(generator, "Count from 1 to 20:")
        )
        print("sums:", ", ".join(map(str, sums)))
        print("streamed in pieces:", isinstance(pieces, int) and pieces > 0)
        print("requests finished:", generator.stats()["finished"])


if __name__ == "__main__":
    asyncio.run(main())
