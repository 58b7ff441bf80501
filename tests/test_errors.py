# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect
import pickle
import threading

import pytest

from unillm import RequestOutput, errors

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


OUTPUT = RequestOutput(
    request_id="0", prompt="a", prompt_token_ids=[97], outputs=[], finished=True
)
ARGUMENTS = {
    "differences": ["model: a → b"],
    "message": "It failed.",
    "owner": "Generator",
    "name": "max_num_seq",
    "known": ["max_num_seqs"],
    "reason": "it has another name",
    "files": ["config.json"],
    "installed": ["embedded"],
    "remedy": "pip install it",
    "prompt_tokens": 65,
    "max_prompt_tokens": 63,
    "max_model_len": 64,
    "model_positions": 128,
    "parameter": "seed",
    "value": {"any": [1, 2.5]},
    "output": OUTPUT,
    "errors": {1: errors.PromptTypeError("a form")},
    "results": [OUTPUT, None],
    "key": "0123",
    "backend": "echo",
    "owner_pid": 7,
    "kind": "ModelError",
}
"""A value for each argument that an error class takes."""


def build(cls, **given):
    """Return an error with all its arguments."""
    names = inspect.signature(cls).parameters
    return cls(**{name: {**ARGUMENTS, **given}[name] for name in names})


def facts_of(error):
    """Return what `==` compares; errors themselves have no equality."""
    attributes = dict(vars(error))
    if "errors" in attributes:
        attributes["errors"] = {
            index: facts_of(each) for index, each in attributes["errors"].items()
        }
    return type(error), str(error), error.args, attributes


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_pickled_error_keeps_its_message_and_attributes(cls):
    error = build(cls)
    error.note = "a program may add attributes"

    again = pickle.loads(pickle.dumps(error))

    assert facts_of(again) == facts_of(error)


def test_an_attribute_that_cannot_be_pickled_becomes_its_repr():
    lock = threading.Lock()

    again = pickle.loads(pickle.dumps(build(errors.InvalidParameterError, value=lock)))

    assert (again.parameter, again.value) == ("seed", repr(lock))


def test_a_message_can_be_written_whatever_value_it_names():
    assert str(errors.ConfigError("a \ud800 of ü")) == r"a \ud800 of ü"


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
