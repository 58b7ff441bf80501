# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pyarrow as pa
import pytest
from unillm_ray._rows import (
    WRITTEN,
    add_results,
    check_columns,
    check_params,
    read_row,
)

from unillm import CompletionOutput, RequestOutput, SamplingParams
from unillm.errors import ConfigError, InvalidParameterError, InvalidPromptError

PARAMS = SamplingParams(temperature=0.5, max_tokens=7)


def output(text, ids):
    completion = CompletionOutput(
        index=0, text=text, token_ids=ids, finish_reason="stop"
    )
    return RequestOutput(
        request_id="1",
        prompt="p",
        prompt_token_ids=[1, 2, 3],
        outputs=[completion],
        finished=True,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", "Add 1 and 2:"),
        ("prompt_token_ids", [3, 4]),
        ("messages", [{"role": "user", "content": "Hello"}]),
    ],
)
def test_a_row_has_its_prompt_in_one_of_three_columns(name, value):
    row = {"messages": None, "prompt": None, "prompt_token_ids": None, name: value}

    request = read_row({"id": 4, **row}, PARAMS)

    assert request.prompt == {name: value}
    assert request.params == PARAMS


def test_keys_that_arrow_has_added_to_a_dict_are_dropped():
    messages = [
        {"role": "user", "content": "Hello", "name": None},
        {"role": "user", "content": "Hello", "name": "Ada"},
    ]

    request = read_row({"messages": messages}, PARAMS)

    assert request.prompt == {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "user", "content": "Hello", "name": "Ada"},
        ]
    }


@pytest.mark.parametrize("row", [{"prompt": None}, {"prompt": "a", "messages": []}])
def test_a_row_without_one_prompt_is_refused(row):
    with pytest.raises(InvalidPromptError, match="exactly one of messages, prompt"):
        read_row(row, PARAMS)


def test_the_params_of_a_row_replace_fields_of_the_others():
    row = {"prompt": "a", "sampling_params": {"max_tokens": 3, "seed": None}}

    assert read_row(row, PARAMS).params == SamplingParams(temperature=0.5, max_tokens=3)


@pytest.mark.parametrize(
    "given",
    [{"n": 2}, {"logprobs": 1}, {"logprob_token_ids": [1]}, {"prompt_logprobs": 0}],
)
def test_params_whose_results_have_no_column_are_refused(given):
    with pytest.raises(InvalidParameterError, match="a row has one text"):
        check_params(SamplingParams(**given))
    with pytest.raises(InvalidParameterError, match="a row has one text"):
        read_row({"prompt": "a", "sampling_params": given}, PARAMS)


def test_a_dataset_without_a_column_of_prompts_is_refused():
    with pytest.raises(ConfigError, match="It has id, text"):
        check_columns(["id", "text"])


def test_a_dataset_with_a_column_of_results_is_refused():
    with pytest.raises(ConfigError, match="columns error, finish_reason already"):
        check_columns(["prompt", "finish_reason", "error"])


def test_results_stand_beside_their_rows_with_fixed_types():
    table = pa.table({"id": [1, 2], "prompt": ["a", "b"]})

    written = add_results(table, [output("x", [5, 6]), ValueError("too long")])

    assert written.schema == pa.schema([*table.schema, *WRITTEN])
    assert written.to_pylist() == [
        {
            "id": 1,
            "prompt": "a",
            "generated_text": "x",
            "generated_tokens": [5, 6],
            "num_input_tokens": 3,
            "num_generated_tokens": 2,
            "finish_reason": "stop",
            "error": None,
        },
        {
            "id": 2,
            "prompt": "b",
            "generated_text": None,
            "generated_tokens": None,
            "num_input_tokens": None,
            "num_generated_tokens": None,
            "finish_reason": None,
            "error": "ValueError: too long",
        },
    ]
