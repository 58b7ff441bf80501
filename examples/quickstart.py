# SPDX-License-Identifier: Apache-2.0

"""Batch, chat and stream on the bundled model: runs offline on a laptop."""

from __future__ import annotations

from unillm import Generator, SamplingParams


def main() -> None:
    """Generate in the three ways that most programs need."""
    prompts = ["Count from 3 to 9:", "Add 17 and 25:", "Spell the word apple:"]
    greedy = SamplingParams(temperature=0, max_tokens=64)

    with Generator("unillm/tiny") as generator:
        for output in generator.generate(prompts, greedy):
            print(f"{output.prompt} {output.text} ({output.finish_reason})")

        [answer] = generator.chat([{"role": "user", "content": "Add 20 and 22:"}])
        print("chat:", answer.text)

        for delta in generator.stream("List the days from Tuesday:", greedy):
            print(delta.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
