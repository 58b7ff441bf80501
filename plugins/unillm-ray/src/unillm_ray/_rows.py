# SPDX-License-Identifier: Apache-2.0

"""Rows of a dataset to requests, and outcomes of requests to columns. Without Ray.

The columns have the names that ``ray.data.llm`` gives them, where it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pyarrow as pa

from unillm import PromptType, RequestOutput, SamplingParams
from unillm.errors import ConfigError, InvalidParameterError, InvalidPromptError

PROMPTS = ("messages", "prompt", "prompt_token_ids")
"""Columns that may hold the prompt; a row has a value in exactly one of them."""

PARAMS = "sampling_params"
"""Column with the fields of `SamplingParams` that differ in this row."""

WRITTEN = pa.schema(
    [
        ("generated_text", pa.string()),
        ("generated_tokens", pa.list_(pa.int64())),
        ("num_input_tokens", pa.int64()),
        ("num_generated_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns that are added to a row. A row that failed has an error and no text."""

_UNWRITTEN = {
    "n": (1,),
    "logprobs": (None,),
    "logprob_token_ids": (None,),
    "prompt_logprobs": (None,),
}
"""Fields of `SamplingParams` whose results have no column, and their allowed values."""


@attrs.frozen
class RowRequest:
    """The request of one row."""

    prompt: PromptType
    params: SamplingParams


def check_columns(names: Sequence[str]) -> None:
    """Check the columns of a dataset.

    Raises:
        ConfigError: No column holds a prompt, or one has the name of a result.
    """
    if not set(PROMPTS) & set(names):
        raise ConfigError(
            f"A dataset needs a column of prompts: {', '.join(PROMPTS)}. It has "
            f"{', '.join(names)}. Rename one with Dataset.rename_columns."
        )
    if taken := sorted(set(WRITTEN.names) & set(names)):
        raise ConfigError(
            f"The dataset has the columns {', '.join(taken)} already, which results "
            "are written to. Rename or drop them first."
        )


def check_params(params: SamplingParams) -> SamplingParams:
    """Return *params*, if the columns can hold all their results.

    Raises:
        InvalidParameterError: A field has results that no column holds.
    """
    for name, allowed in _UNWRITTEN.items():
        value = getattr(params, name)
        if value not in allowed:
            raise InvalidParameterError(
                f"{name}={value!r} is not possible for the rows of a dataset: a row "
                "has one text and no log-probabilities. For several completions, "
                "repeat the row with another seed.",
                parameter=name,
                value=value,
            )
    return params


def read_row(row: Mapping[str, Any], params: SamplingParams) -> RowRequest:
    """Return the request of a row.

    Args:
        row: Its values by column.
        params: Of rows without any of their own.

    Raises:
        RequestError: The row has no prompt or several, or impossible params.
    """
    given = {name: row[name] for name in PROMPTS if row.get(name) is not None}
    if len(given) != 1:
        raise InvalidPromptError(
            f"A row needs a value in exactly one of {', '.join(PROMPTS)}; it has "
            f"{' and '.join(given) or 'none'}."
        )
    prompt: Any = _without_nulls(given)
    own = _without_nulls(row.get(PARAMS) or {})
    return RowRequest(prompt, check_params(attrs.evolve(params, **own)))


def _without_nulls(value: Any) -> Any:
    """Drop the keys without a value: Arrow gives all dicts of a column all keys."""
    if isinstance(value, Mapping):
        return {
            key: _without_nulls(each) for key, each in value.items() if each is not None
        }
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def add_results(
    table: pa.Table, outcomes: Sequence[RequestOutput | Exception]
) -> pa.Table:
    """Return the rows of *table* with the outcome of each one beside it."""
    rows = [_result(outcome) for outcome in outcomes]
    for field in WRITTEN:
        values = pa.array([row.get(field.name) for row in rows], field.type)
        table = table.append_column(field, values)
    return table


def _result(outcome: RequestOutput | Exception) -> dict[str, Any]:
    if isinstance(outcome, Exception):
        return {"error": f"{type(outcome).__name__}: {outcome}"}
    return {
        "generated_text": outcome.text,
        "generated_tokens": outcome.token_ids,
        "num_input_tokens": len(outcome.prompt_token_ids),
        "num_generated_tokens": len(outcome.token_ids),
        "finish_reason": outcome.finish_reason,
    }
