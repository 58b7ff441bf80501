# SPDX-License-Identifier: Apache-2.0

"""Exceptions that cross from one process to another."""

from __future__ import annotations

import inspect

import pytest
from msgspec import msgpack

from unillm import LoRARequest, errors
from unillm.process.channel import ENCODER
from unillm.process.failures import as_exception, as_failure
from unillm.process.messages import Failure

SPECIAL = {
    errors.UnknownArgumentError: lambda: errors.UnknownArgumentError("X", "y", ["z"]),
    errors.EosNotFoundError: lambda: errors.EosNotFoundError("m", files=["a", "b"]),
    errors.PromptTooLongError: lambda: errors.PromptTooLongError(
        prompt_tokens=9, max_prompt_tokens=7, max_model_len=8
    ),
    errors.InvalidParameterError: lambda: errors.InvalidParameterError(
        "m", parameter="top_k", value=(1, {"a": [2.5, None]})
    ),
    errors.UnsupportedParameterError: lambda: errors.UnsupportedParameterError(
        "m", parameter="lora_request", value=LoRARequest("a", 1, "/b")
    ),
    errors.RequestsFailedError: lambda: errors.RequestsFailedError({}, [None]),
    errors.RequestsRefusedError: lambda: errors.RequestsRefusedError({}, [None]),
}


def make(kind):
    """Return an error of a class, its required keywords filled with texts."""
    parameters = inspect.signature(kind).parameters.values()
    needed = [
        each.name
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    ]
    takes_text = any(each.name == "message" for each in parameters)
    text = ["what happened, 'quoted'"] if takes_text else []
    return kind(*text, **{name: f"the {name}" for name in needed})


ALL = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.UnillmError)
]


def across(error: BaseException) -> Exception:
    encoded = ENCODER.encode(as_failure(error))
    return as_exception(msgpack.decode(encoded, type=Failure))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_arrives_with_its_type_message_and_attributes(kind):
    error = SPECIAL.get(kind, lambda: make(kind))()

    arrived = across(error)

    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_an_object_that_is_not_data_arrives_as_its_repr():
    arrived = across(
        errors.InvalidParameterError("m", parameter="seed", value=2**70),
    )

    assert arrived.value == repr(2**70)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad"), ValueError, "bad"),
        (KeyError("name"), KeyError, "'name'"),
        (MemoryError(), MemoryError, ""),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
            UnicodeError,
            f"builtins.UnicodeDecodeError: {UnicodeDecodeError('utf-8', bytes([255]), 0, 1, 'no')}",
        ),
    ],
)
def test_an_error_of_python_arrives_as_the_nearest_that_takes_a_text(
    error, kind, message
):
    arrived = across(error)

    assert (type(arrived), str(arrived)) == (kind, message)


def test_an_error_of_the_other_side_alone_is_named_in_the_message():
    class DeviceLostError(RuntimeError):
        pass

    arrived = across(DeviceLostError("cuda:0"))

    assert type(arrived) is RuntimeError
    assert str(arrived).endswith("DeviceLostError: cuda:0")


@pytest.mark.parametrize("kind", ["builtins.SystemExit", "os.system", "builtins.eval"])
def test_no_class_of_the_other_sides_choice_is_made(kind):
    arrived = as_exception(Failure(kinds=[kind], message="m", state={}))

    assert type(arrived) is RuntimeError
