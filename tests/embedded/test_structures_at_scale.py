# SPDX-License-Identifier: Apache-2.0

"""Two hundred schemas and regexes in one batch, on the bundled model and random ones.

A share of them by default, and all of them under the marker ``large``.
"""

from __future__ import annotations

import pytest
from embedded.byte_tokenizer import save_model
from embedded.structures import STRUCTURES, Structure

from unillm import Generator, SamplingParams
from unillm.errors import InvalidParameterError, RequestFailedError

SHARE = STRUCTURES[::8]
MAX_TOKENS = 320


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    """One of each model, made when it is asked for."""
    made = {}

    def make(name):
        if name not in made:
            path = name
            if name.startswith("random"):
                path = save_model(
                    tmp_path_factory.mktemp("random"), seed=int(name.split()[1])
                )
            made[name] = Generator(path, backend="transformers", max_num_seqs=16)
        return made[name]

    yield make
    for generator in made.values():
        generator.close()


def check(generator, structures, *, temperature):
    asked = [
        SamplingParams(
            structured_outputs=each.fields,
            temperature=temperature,
            max_tokens=MAX_TOKENS,
            seed=number,
        )
        for number, each in enumerate(structures)
    ]

    outputs = generator.generate([f"{each.name}:" for each in structures], asked)

    ended = 0
    for each, output in zip(structures, outputs, strict=True):
        if output.finish_reason == "stop":
            ended += 1
            assert each.accepts(output.text), (each.name, each.fields, output.text)
            assert output.token_ids[-1] in generator.eos_token_ids
        else:
            assert "length" == output.finish_reason
    # Digits of a number and a pattern without an end can go on for ever.
    assert ended >= len(structures) * 0.97, ended


@pytest.mark.parametrize("model", ["unillm/tiny", "random 0"])
def test_every_output_that_ended_is_right(generators, model):
    check(generators(model), SHARE, temperature=1.0)


@pytest.mark.large
@pytest.mark.parametrize("temperature", [1.0, 0.0], ids=["sampled", "greedy"])
@pytest.mark.parametrize("model", ["unillm/tiny", "random 0", "random 1"])
def test_every_output_of_all_that_ended_is_right(generators, model, temperature):
    assert len(STRUCTURES) >= 200

    check(generators(model), STRUCTURES, temperature=temperature)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"json": {"type": "integer", "maximum": 9}}, "10"),
        ({"json": {"type": "string", "format": "date"}}, '"2024-13-01"'),
        ({"json": {"$defs": {"a": {"const": 1}}, "$ref": "#/$defs/a"}}, "2"),
        ({"regex": "a{3}"}, "aaaa"),
    ],
)
def test_the_judge_knows_what_is_wrong(fields, wrong):
    assert not Structure("", fields).accepts(wrong)


IMPOSSIBLE = [
    {"json": {"type": "integer", "minimum": 9, "maximum": 3}},
    {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
    {"json": {"$ref": "#/$defs/nowhere"}},
    {"json": {"type": "array", "items": {"type": "null"}, "uniqueItems": True}},
    {"json": {"not": {"type": "null"}}},
    {"regex": "("},
    {"regex": "a(?=b)"},
    {"regex": "x" * 20_000},
    {"grammar": "start: missing"},
    {"choice": ["x" * 200_000]},
]
"""Wrong, contradictory, not to be kept to, or beyond a limit."""

EXPLODING = [
    {"regex": "(a|aa|aaa|aaaa|aaaaa){1,400}(b|bb|bbb){1,400}c{0,400}"},
    {"regex": "(.{0,300}a.{0,300}b.{0,300}){3}"},
    {"regex": "[ab]*a[ab]{28}"},
]
"""So many states that computing them has to be stopped, or shown to be cheap."""


def test_what_is_impossible_or_explodes_is_told_and_its_neighbours_do_not_notice(
    generators,
):
    generator = generators("random 0")
    good = SHARE[:16]
    wrong = [*IMPOSSIBLE, *EXPLODING]
    alone = generator.generate([each.name for each in good], asked_of(good))

    mixed = [*good, *wrong]
    outputs = generator.generate(
        [*(each.name for each in good), *("wrong" for _ in wrong)],
        [*asked_of(good), *map(structured, wrong)],
        on_error="return",
    )

    assert len(mixed) == len(outputs)
    for one, other in zip(alone, outputs, strict=False):
        assert one.token_ids == other.token_ids
    told = outputs[len(good) :]
    for fields, outcome in zip(IMPOSSIBLE, told, strict=False):
        assert isinstance(outcome, InvalidParameterError), fields
    for fields, outcome in zip(EXPLODING, told[len(IMPOSSIBLE) :], strict=True):
        ended = getattr(outcome, "finish_reason", None) in ("stop", "length")
        refused = isinstance(outcome, (InvalidParameterError, RequestFailedError))
        assert ended or refused, (fields, outcome)


def structured(fields) -> SamplingParams:
    return SamplingParams(structured_outputs=fields, max_tokens=40, seed=1)


def asked_of(structures):
    return [structured(each.fields) for each in structures]
