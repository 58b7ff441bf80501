# SPDX-License-Identifier: Apache-2.0

"""Outlines over vLLM's offline class, with each kind of output type."""

import json
import sys
from typing import Literal

import outlines
from outlines.types.dsl import JsonSchema
from pydantic import BaseModel, ConfigDict
from vllm import LLM, SamplingParams


class Car(BaseModel):
    """An object of JSON with one key."""

    model_config = ConfigDict(extra="forbid")

    doors: bool


model = outlines.from_vllm_offline(LLM(sys.argv[1], max_model_len=256, dtype="float32"))
params = SamplingParams(max_tokens=40, temperature=0)
found = {
    "text": model("Count from 3 to 9:", sampling_params=params),
    "literal": model("Add 17 and 25:", Literal["42", "43"], sampling_params=params),
    "int": model("Add 17 and 25:", int, sampling_params=params),
    "regex": model("x", outlines.types.Regex("[ab]{3}"), sampling_params=params),
    "grammar": model("x", outlines.types.CFG('start: "yes"'), sampling_params=params),
    "json": Car.model_validate_json(
        model(
            "A car:", JsonSchema(Car, whitespace_pattern=" ?"), sampling_params=params
        )
    ).model_dump_json()
    in ('{"doors":true}', '{"doors":false}'),
    "batch": model.batch(["Count from 3 to 9:"], sampling_params=params),
}
json.dump(found, sys.stdout)
