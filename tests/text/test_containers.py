# SPDX-License-Identifier: Apache-2.0

"""Prompts in the containers of other libraries, with the libraries themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unillm.errors import InvalidPromptError, PromptTypeError
from unillm.text.prompts import PlainText, TokenIds, as_prompts, normalise

TEXTS = ["one", "two"]
IDS = [5, 6, 7]


def prompts_of(container):
    return [normalise(prompt) for prompt in as_prompts(container)]


@pytest.fixture(scope="module")
def pandas():
    return pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def arrow():
    return pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    "dtype", [str, object, np.dtypes.StringDType()], ids=["str", "object", "string"]
)
def test_a_numpy_array_of_texts_is_a_list_of_prompts(dtype):
    array = np.array(TEXTS, dtype=dtype)

    assert prompts_of(array) == [PlainText("one"), PlainText("two")]
    assert prompts_of(array[0]) == [PlainText("one")]


def test_an_array_of_integers_is_one_prompt():
    for array in (np.array(IDS), torch.tensor(IDS), np.array(IDS, dtype=object)):
        assert prompts_of(array) == [TokenIds(IDS)]


def test_an_array_of_several_dimensions_is_refused():
    with pytest.raises(InvalidPromptError, match="one dimension, got 2"):
        prompts_of(np.array([IDS, IDS]))


def test_an_empty_container_has_no_prompts(pandas, arrow):
    for empty in (np.array([], dtype=object), pandas.Series([]), arrow.array([])):
        assert as_prompts(empty) == []


def test_a_column_of_pandas_is_a_list_of_prompts(pandas):
    frame = pandas.DataFrame({"text": TEXTS, "ids": [IDS, IDS]}, index=[8, 9])

    for column in (frame["text"], frame["text"].astype("string"), frame["text"].array):
        assert prompts_of(column) == [PlainText("one"), PlainText("two")]
    assert prompts_of(frame["ids"]) == [TokenIds(IDS)] * 2
    assert prompts_of(pandas.Series(IDS)) == [TokenIds(IDS)]
    with pytest.raises(PromptTypeError, match="got DataFrame"):
        as_prompts(frame)


def test_a_missing_value_is_refused_alone(pandas):
    first, second = as_prompts(pandas.Series(["one", None]))

    assert normalise(first) == PlainText("one")
    with pytest.raises(PromptTypeError, match="A prompt must be"):
        normalise(second)


def test_a_column_of_arrow_is_a_list_of_prompts(arrow):
    array = arrow.array(TEXTS)

    for column in (array, arrow.chunked_array([array]), list(array)):
        assert prompts_of(column) == [PlainText("one"), PlainText("two")]
    assert prompts_of(arrow.array([IDS, IDS])) == [TokenIds(IDS)] * 2
    assert prompts_of(arrow.array(IDS)) == [TokenIds(IDS)]
