# SPDX-License-Identifier: Apache-2.0

"""`generate_iter` and `as_completed`: prompts are read as answers are taken.

The engine follows a script: a prompt of one id has as many new tokens as that id.
"""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from idle import wait_until_idle

from unillm import Generator, SamplingParams
from unillm.errors import (
    ConfigError,
    GeneratorClosedError,
    InvalidParameterError,
    InvalidPromptError,
    PromptTypeError,
)
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

ENDLESS = SamplingParams(max_tokens=90_000, ignore_eos=True)
WRONG = 10**9


def script(request, n):
    wanted = request.prompt_token_ids[0]
    return 65 if n + 1 < wanted else next(iter(request.stop_token_ids), 65)


def make_engine(config):
    return ScriptedEngine(script, max_model_len=100_000, vocab_size=512, max_num_seqs=4)


class Table:
    """An iterable of the names of its columns, as pandas has it."""

    columns = ("a", "b")

    def __iter__(self):
        return iter(self.columns)


@pytest.fixture
def generator():
    with (
        plugged(ScriptedBackend(make_engine, name="lengths")),
        Generator("unillm/tiny", backend="lengths") as generator,
    ):
        yield generator


def lengths(outputs):
    return [len(output.token_ids) for output in outputs]


def test_outputs_come_in_the_order_of_the_prompts(generator):
    wanted = [40, 3, 7, 1, 30, 2] * 50

    outputs = generator.generate_iter(([n] for n in wanted), max_pending=5)

    assert lengths(outputs) == wanted


def test_each_output_comes_with_the_index_of_its_prompt(generator):
    wanted = [40, 3, 7, 1, 30, 2] * 50

    found = list(generator.as_completed(([n] for n in wanted), max_pending=5))

    assert sorted(index for index, _ in found) == list(range(len(wanted)))
    assert lengths(o for _, o in found) == [wanted[index] for index, _ in found]


def test_a_short_answer_overtakes_a_long_one(generator):
    found = generator.as_completed([[500], [1]])

    assert next(found)[0] == 1


@pytest.mark.parametrize("name", ["generate_iter", "as_completed"])
def test_prompts_are_read_as_answers_are_taken(generator, name):
    read = itertools.count()
    prompts = ([1 + next(read) % 3] for _ in itertools.repeat(None))  # without end
    most = 0

    for taken, _ in enumerate(getattr(generator, name)(prompts, max_pending=8), 1):
        ahead = read.__reduce__()[1][0] - taken
        most = max(most, ahead)
        if taken == 500:
            break

    assert 0 < most <= 8


@pytest.mark.parametrize("name", ["generate_iter", "as_completed"])
def test_leaving_the_loop_cancels_what_is_under_way(generator, name):
    other = generator.submit([200])
    params = [SamplingParams(max_tokens=1), *[ENDLESS] * 20]
    for _ in getattr(generator, name)([[1]] * 21, params):
        break

    wait_until_idle(generator)
    stats = generator.stats()
    assert stats["finished"] == 2  # the first one and the other call's
    assert stats["cancelled"] == stats["accepted"] - 2 > 0
    assert len(other.result().token_ids) == 200


@pytest.mark.parametrize("name", ["generate_iter", "as_completed"])
def test_the_first_error_ends_the_loop_and_names_its_prompt(generator, name):
    with pytest.raises(InvalidPromptError) as caught:
        list(getattr(generator, name)([[2], [WRONG], [200]]))

    assert caught.value.prompt_index == 1
    wait_until_idle(generator)


def test_errors_may_take_the_place_of_outputs(generator):
    prompts = [[2], [WRONG], [3], 5]

    outputs = list(generator.generate_iter(prompts, on_error="return"))
    found = dict(generator.as_completed(iter(prompts), on_error="return"))

    for first, wrong, third, number in (outputs, [found[n] for n in range(4)]):
        assert lengths([first, third]) == [2, 3]
        assert isinstance(wrong, InvalidPromptError)
        assert isinstance(number, PromptTypeError)


def test_params_may_be_an_iterable_too(generator):
    params = (SamplingParams(max_tokens=count) for count in itertools.count(1))

    outputs = list(generator.generate_iter([[9]] * 4, params))

    assert lengths(outputs) == [1, 2, 3, 4]


def test_fewer_params_than_prompts_are_an_error(generator):
    params = [SamplingParams(max_tokens=1)] * 2

    outputs = generator.generate_iter([[9]] * 4, params)

    with pytest.raises(InvalidParameterError, match="more prompts than the 2 params"):
        list(outputs)


@pytest.mark.parametrize(
    "prompt", [[3], "abc", {"prompt_token_ids": [3]}, np.array([3, 4])], ids=str
)
def test_one_prompt_is_one_prompt(generator, prompt):
    params = SamplingParams(max_tokens=2)

    assert lengths(generator.generate_iter(prompt, params)) == [2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"prompts": 5}, PromptTypeError),
        ({"prompts": Table()}, PromptTypeError),
        ({"prompts": [], "params": {"top_k": 1}}, InvalidParameterError),
        ({"prompts": [], "lora_request": "name"}, InvalidParameterError),
        ({"prompts": [], "priority": "high"}, InvalidParameterError),
        ({"prompts": [], "timeout_s": -1}, InvalidParameterError),
        ({"prompts": [], "max_pending": 0}, InvalidParameterError),
        ({"prompts": [], "max_pending": "5"}, InvalidParameterError),
        ({"prompts": [], "on_error": "ignore"}, ConfigError),
    ],
)
def test_a_wrong_argument_is_refused_at_the_call(generator, arguments, error):
    with pytest.raises(error):
        generator.generate_iter(**arguments)


def test_closing_the_generator_ends_the_loop(generator):
    params = itertools.chain([SamplingParams(max_tokens=1)], itertools.repeat(ENDLESS))
    outputs = generator.generate_iter(([5] for _ in itertools.count()), params)
    next(outputs)
    threading.Timer(0.05, generator.close).start()

    with pytest.raises(GeneratorClosedError):
        list(outputs)


def test_an_error_of_the_callers_iterable_passes_on_and_cancels(generator):
    def prompts():
        yield [500]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(generator.generate_iter(prompts(), ENDLESS))

    wait_until_idle(generator)
