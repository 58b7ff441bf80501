# SPDX-License-Identifier: Apache-2.0

"""Ask for a schema, a regex and a choice in one call, and read the answers as data."""

from __future__ import annotations

import json

from unillm import Generator, RequestOutput, SamplingParams, StructuredOutputs
from unillm.errors import InvalidParameterError

SCHEMA = {
    "type": "object",
    "properties": {
        "right": {"type": "boolean"},
        "grade": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["right", "grade"],
    "additionalProperties": False,
}


def main() -> None:
    """Each request of the call has a structure of its own; one of them is wrong."""
    structures = [
        StructuredOutputs(json=SCHEMA, disable_any_whitespace=True),
        StructuredOutputs(regex="[0-9]{2}:[0-9]{2}"),
        StructuredOutputs(choice=["yes", "no"]),
        StructuredOutputs(regex="("),
    ]
    with Generator("unillm/tiny") as generator:
        outputs = generator.generate(
            ["Grade it:", "What time is it?", "Is it?", "Hm."],
            [
                SamplingParams(structured_outputs=each, max_tokens=60, seed=1)
                for each in structures
            ],
            on_error="return",
        )
    texts = [each.text for each in outputs if isinstance(each, RequestOutput)]
    errors = [each for each in outputs if isinstance(each, InvalidParameterError)]
    graded, time, answer = texts
    print("keys of the object:", ", ".join(sorted(json.loads(graded))))
    print("a time:", time[2] == ":")
    print("a choice:", answer in ("yes", "no"))
    print("refused:", len(errors))


if __name__ == "__main__":
    main()
