# SPDX-License-Identifier: Apache-2.0

"""``unillm compare``: the report of two sides; ``tests/comparison`` tests one side."""

from __future__ import annotations

import json
import re

import pytest

from unillm.comparison import sides


@pytest.fixture
def compare(cli, liar):
    def run(*args):
        return cli("compare", "unillm/tiny", *args)

    return run


def test_two_precisions_agree_on_what_the_model_was_taught(compare):
    result = compare(
        *("--backend", "transformers", "--json"),
        *("--dtype", "float32", "--dtype", "bfloat16"),
    )

    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["agree"] is True
    assert report["verdicts"] == {"equal": 12}
    assert [side["options"]["dtype"] for side in report["sides"]] == [
        "float32",
        "bfloat16",
    ]
    first = report["prompts"][0]
    assert first["prompt"] == "Count from 3 to 9:"
    assert [answer["text"] for answer in first["answers"]] == ["3 4 5 6 7 8 9"] * 2
    assert 0 < first["logprob_difference"] < 0.5
    for side in report["sides"]:
        assert side["repeats"] is True
        assert 0 < side["num_tokens"] <= 12 * 64
        assert side["seconds"] > 0


def test_a_wrong_token_is_found_with_its_position_and_gap(compare, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "ab"}\n{"prompt_token_ids": [999]}\n')

    result = compare("--backend", "liar", "--option", "2:lie=token", "--file", prompts)

    assert (result.exit_code, result.stderr) == (6, "")
    text = re.sub(r"tokens/s .*", "", result.stdout)
    assert re.match(r"side +1: liar +2: liar \(lie=token\)\n", text)
    assert "liar 1.0" in text
    assert "ended by    length 1, InvalidPromptError 1  " in text
    assert "line 1 ('ab'): diverged\n  at new token 2:\n  side 1: " in text
    assert ", 0.5000 nats over the other side's\n" in text
    assert text.endswith(
        "disagree: 1 diverged, 1 both refused; log-probabilities of equal tokens "
        "differ by at most 0.0000\n"
    )


def test_a_near_tie_is_agreement_where_it_is_tolerated(compare):
    lie = ("--backend", "liar", "--option", "2:lie=tie", "--max-tokens", "5", "ab")

    result = compare(*lie, "--tolerance", "0.01")

    assert result.exit_code == 0
    assert "agree (tolerance 0.01): 1 near tie" in result.stdout


def test_an_error_of_a_side_is_the_commands(compare):
    result = compare("--backend", "liar", "--option", "1:lie=load", "ab")

    assert result.exit_code == 3
    assert "error: The weights are not what they seem." in result.stderr
    assert result.stdout == ""


def test_an_interpreter_that_does_not_exist_is_named(compare):
    result = compare("--backend", "a", "--backend", "b", "--python", "/no")

    assert result.exit_code == 4
    assert "/no cannot be run" in result.stderr


def test_a_side_that_does_not_exist_is_named_before_the_other_is_loaded(
    compare, monkeypatch
):
    monkeypatch.setattr(sides, "ask", lambda *_, **__: pytest.fail("it was loaded"))

    result = compare("--backend", "liar", "--backend", "transfomers")

    assert result.exit_code == 4
    assert "Did you mean 'transformers'" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backend", "liar"], "Both sides are the same"),
        ([], "Both sides are the same"),
        (["--backend", "a", "--backend", "b", "--backend", "c"], "given 3 times"),
        (["--backend", "liar", "--option", "2:lie"], "--option takes KEY=VALUE"),
        (["--backend", "a", "--backend", "b", "--file", "/no"], "cannot be read"),
    ],
    ids=["one backend", "none", "three", "no value", "no file"],
)
def test_wrong_use_is_refused(compare, args, message):
    result = compare(*args)

    assert result.exit_code == 2
    assert message in result.stderr
