# SPDX-License-Identifier: Apache-2.0

"""A conversation in code: the history is a list that the program keeps."""

from __future__ import annotations

from unillm import Generator


def main() -> None:
    """Ask twice, and let the model go on in an answer that was begun for it."""
    history = [{"role": "system", "content": "You are a helpful assistant."}]

    with Generator("unillm/tiny") as generator:
        for question in ("Add 17 and 25:", "Count from 3 to 9:"):
            history.append({"role": "user", "content": question})
            [output] = generator.chat(history)
            history.append({"role": "assistant", "content": output.text})

        for message in history:
            print(f"{message['role']}: {message['content']}")

        begun = [
            {"role": "user", "content": "Count from 3 to 9:"},
            {"role": "assistant", "content": "3 4 5"},
        ]
        [output] = generator.chat(
            begun, add_generation_prompt=False, continue_final_message=True
        )
        print(f"continued: 3 4 5 …{output.text}")


if __name__ == "__main__":
    main()
