# SPDX-License-Identifier: Apache-2.0

"""Show text as it comes, and stop reading when enough has come."""

from __future__ import annotations

from unillm import Generator, SamplingParams


def main() -> None:
    """Stream one answer to its end, and leave another one early."""
    greedy = SamplingParams(temperature=0, max_tokens=200)

    with Generator("unillm/tiny") as generator:
        for delta in generator.stream("Count from 1 to 9:", greedy):
            print(delta.text, end="", flush=True)
        print(f" ({delta.finish_reason})")

        text = ""
        for delta in generator.stream("Count from 1 to 40:", greedy):
            text += delta.text
            if " 5 " in text:
                break  # cancels the request: its slot is free for another one
        print(text[: text.index(" 5 ")], "(enough)")


if __name__ == "__main__":
    main()
