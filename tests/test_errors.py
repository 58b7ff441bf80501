# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect

import pytest

from unillm import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.UnillmError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_in_the_tree(cls):
    assert cls.__name__ in errors.__doc__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_tree_names_the_builtin_that_an_error_also_is(cls):
    builtin = [base.__name__ for base in cls.__bases__ if base.__module__ == "builtins"]
    line = next(line for line in errors.__doc__.splitlines() if cls.__name__ in line)

    for name in builtin:
        assert cls is errors.UnillmError or f"({name})" in line


def test_prompt_too_long_has_both_numbers_and_the_remedy():
    error = errors.PromptTooLongError(
        prompt_tokens=65, max_prompt_tokens=63, max_model_len=64
    )

    assert "65 tokens" in str(error)
    assert "at most 63 fit" in str(error)
    assert "truncate_prompt_tokens=63" in str(error)


def test_many_failures_are_counted_and_the_first_ones_shown():
    failures = {n: errors.InvalidPromptError(f"bad {n}") for n in range(8)}

    error = errors.RequestsFailedError(failures, [None] * 8)

    assert "8 of 8 requests failed" in str(error)
    assert "prompt 4: InvalidPromptError: bad 4" in str(error)
    assert "and 3 more" in str(error)
    assert "bad 5" not in str(error)
