# SPDX-License-Identifier: Apache-2.0

"""Shapes and failures, on a generator that repeats its prompt in capitals."""

from __future__ import annotations

import json

import pytest

from unillm import SamplingParams
from unillm.cli import requests
from unillm.errors import (
    EngineDeadError,
    InvalidParameterError,
    QueueFullError,
    RequestFailedError,
    UnsupportedParameterError,
)


def json_lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


# ------------------------------------------------------------------------------ output


def test_one_prompt_is_streamed_and_ends_with_a_newline(fake, cli):
    result = cli("generate", "one two")

    assert result.stdout == "ONE TWO \n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_several_prompts_are_written_in_their_order(fake, cli):
    result = cli("generate", "c", "a", "b")

    assert result.stdout == "C\nA\nB\n"
    assert result.exit_code == 0


def test_several_completions_are_written_one_after_the_other(fake, cli):
    result = cli("generate", "a", "b", "--n", 2)

    assert result.stdout == "A\nA1\nB\nB1\n"


def test_prompts_come_from_standard_input_a_line_each(fake, cli):
    result = cli("generate", input="one\ntwo\n")

    assert result.stdout == "ONE\nTWO\n"


def test_prompts_come_from_a_file_or_dash(fake, cli, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt_token_ids": [1]}\n')

    assert cli("generate", "-f", tmp_path / "p.jsonl").stdout == "A\nIDS\n"
    assert cli("generate", "-f", "-", input="b\n\nc").stdout == "B\nC\n"


def test_json_is_one_object_a_line_with_the_same_keys(fake, cli):
    result = cli("generate", "a", "long", "--json")

    good, bad = json_lines(result)
    assert set(good) == set(bad)
    assert good["index"] == 0
    assert good["prompt"] == "a"
    assert good["text"] == "A"
    assert good["token_ids"] == [1, 2]
    assert good["finish_reason"] == "stop"
    assert good["num_prompt_tokens"] == 3
    assert good["error"] is None
    assert bad["index"] == 1
    assert bad["prompt"] == "long"
    assert bad["text"] is None
    assert bad["error"]["type"] == "PromptTooLongError"
    assert "9 tokens; at most 7" in bad["error"]["message"]
    assert result.stderr == ""
    assert result.exit_code == 1


def test_json_has_all_completions(fake, cli):
    [line] = json_lines(cli("generate", "a", "--json", "--n", 2))

    assert [each["text"] for each in line["outputs"]] == ["A", "A1"]
    assert line["text"] == "A"
    assert line["index"] == 0


def test_a_json_line_keeps_its_id_and_its_own_params(fake, cli, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "a", "id": 7, "temperature": 0, "max_tokens": 5}\n'
        '{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": '
        '{"messages": [{"role": "user", "content": "b"}], "top_k": 3}}\n'
        '{"prompt": "c", "temprature": 1, "id": 9}\n'
    )

    result = cli("generate", "-f", path, "--json", "--max-tokens", 30)

    first, second, bad = json_lines(result)
    assert (first["id"], first["text"]) == (7, "A")
    assert (second["custom_id"], second["text"]) == ("x", "B")
    assert "Did you mean 'temperature'" in bad["error"]["message"]
    one, other = (params for _, params in fake.created[0].asked)
    assert (one.temperature, one.max_tokens, one.top_k) == (0, 5, 0)
    assert (other.temperature, other.max_tokens, other.top_k) == (0.5, 30, 3)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a", "stream": true}', "stream has no place"),
        ('{"prompt": "a", "model": "gpt-4o"}', "'unillm/tiny' is loaded"),
        ('{"prompt": "a", "top_p": 7}', "top_p"),
    ],
    ids=["stream", "another model", "impossible value"],
)
def test_a_line_that_cannot_be_answered_fails_alone(line, says, fake, cli, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(f'{line}\n{{"prompt": "b", "model": "unillm/tiny"}}\n')

    result = cli("generate", "-f", path)

    assert result.stdout == "B\n"
    assert says in result.stderr
    assert result.exit_code == 1


def test_an_output_file_takes_the_results_and_the_terminal_the_totals(
    fake, cli, tmp_path
):
    path = tmp_path / "out.jsonl"

    result = cli("generate", "a", "long", "-o", path)

    assert result.stdout == ""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["text"] for line in lines] == ["A", None]
    assert (
        "2 prompts, 1 of them failed; 3 prompt tokens and 2 new ones" in result.stderr
    )
    assert cli("generate", "a", "-o", "/no/such/file").exit_code == 2


def test_an_output_file_keeps_its_lines_until_there_are_new_ones(cli, tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("an earlier answer\n")

    assert cli("generate", "a", "-o", path, "--model", "no/such/model").exit_code != 0
    assert path.read_text() == "an earlier answer\n"

    assert cli("generate", "Count from 3 to 9:", "-o", path).exit_code == 0
    assert path.read_text() == "3 4 5 6 7 8 9\n"


def test_answers_do_not_replace_the_prompts(fake, cli, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\n")

    result = cli("generate", "-f", path, "-o", tmp_path / "." / "prompts.txt")

    assert result.exit_code == 2
    assert "--file and --output are one file" in result.stderr
    assert path.read_text() == "a\nb\n"
    assert fake.created == []


def test_a_schema_and_an_adapter_are_for_every_prompt(fake, cli, tmp_path):
    schema = '{"type": "object"}'
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt": "a"}\n"b"\n')

    cli("generate", "-f", lines, "--schema", schema, "--lora", tmp_path)

    [generator] = fake.created
    assert generator.options["enable_lora"] is True
    assert {each.lora_path for each in generator.adapters} == {str(tmp_path)}
    for _, params in generator.asked:
        assert json.loads(params.structured_outputs.json) == {"type": "object"}


# ---------------------------------------------------------------------------- failures


def test_a_refused_prompt_fails_alone(fake, cli):
    result = cli("generate", "a", "long", "b")

    assert result.stdout == "A\nB\n"
    assert result.stderr.startswith("error: prompt 2: This model's maximum context")
    assert result.exit_code == 1


def test_a_refused_only_prompt_ends_with_1(fake, cli):
    result = cli("generate", "long")

    assert result.stdout == ""
    assert result.stderr.startswith("error: This model's maximum context")
    assert result.exit_code == 1


def test_a_request_that_fails_later_fails_alone(fake, cli):
    fake.faults["bad"] = RequestFailedError("row 3 is gone")

    result = cli("generate", "a", "bad", "b")

    assert result.stdout == "A\nB\n"
    assert "error: prompt 2: row 3 is gone" in result.stderr
    assert result.exit_code == 1


def test_the_message_of_a_failed_stream_begins_on_its_own_line(fake, cli):
    fake.faults["bad"] = RequestFailedError("row 3 is gone")

    result = cli("generate", "bad")

    assert result.stdout == "BAD \n"
    assert result.stderr == "error: row 3 is gone\n"
    assert result.exit_code == 1


def test_a_dead_engine_ends_the_command_after_the_results_until_then(fake, cli):
    fake.faults["b"] = EngineDeadError("the engine died")

    result = cli("generate", "a", "b", "c", "--json")

    assert [line["text"] for line in json_lines(result)] == ["A"]
    assert result.stderr == "error: the engine died\n"
    assert result.exit_code == 5
    assert fake.created[0].closed


def test_a_parameter_that_the_backend_lacks_is_one_error(fake, cli, monkeypatch):
    def submit(self, prompt, params, **_):
        raise UnsupportedParameterError("min_p is not for it", parameter="min_p")

    monkeypatch.setattr(fake, "submit", submit)

    result = cli("generate", "a", "b", "c", "--min-p", "0.1")

    assert result.stderr == "error: min_p is not for it\n"
    assert result.exit_code == 2


def test_prompts_that_all_fail_alike_fail_as_one_would(fake, cli):
    for prompt in "ab":
        fake.faults[prompt] = InvalidParameterError("no room", parameter="min_tokens")

    assert cli("generate", "a").exit_code == 2
    assert cli("generate", "a", "b").exit_code == 2
    assert cli("generate", "a", "b", "c").exit_code == 1


def test_ctrl_c_ends_with_130_and_no_message(fake, cli):
    fake.faults["b"] = KeyboardInterrupt()

    result = cli("generate", "a", "b", "c")

    assert result.stdout == "A\n"
    assert result.stderr == ""
    assert result.exit_code == 130
    assert fake.created[0].closed


def test_a_full_queue_waits_for_the_oldest(fake, cli, monkeypatch):
    waiting = []
    submit = fake.submit

    def submit_two(self, prompt, params, **_):
        if sum(not handle.done() for handle in waiting) == 2:
            raise QueueFullError("two wait")
        handle = submit(self, prompt, params)
        handle.is_done = False
        waiting.append(handle)
        return handle

    monkeypatch.setattr(fake, "submit", submit_two)

    result = cli("generate", *"abcdefg")

    assert result.stdout.split() == list("ABCDEFG")
    assert result.exit_code == 0


def test_a_prompt_larger_than_the_queue_fails_alone(fake, cli, monkeypatch):
    submit = fake.submit

    def refuse_b(self, prompt, params, **_):
        if prompt["prompt"] == "b":
            raise QueueFullError("too large")
        return submit(self, prompt, params)

    monkeypatch.setattr(fake, "submit", refuse_b)

    result = cli("generate", *"abc")

    assert result.stdout == "A\nC\n"
    assert "prompt 2: too large" in result.stderr
    assert result.exit_code == 1


def test_the_number_of_requests_under_way_is_bounded(fake, cli, monkeypatch):
    monkeypatch.setattr(requests, "MAX_UNDER_WAY", 3)
    handles = []
    most = 0
    submit = fake.submit

    def submit_slow(self, prompt, params, **_):
        nonlocal most
        handle = submit(self, prompt, params)
        handle.is_done = False
        handles.append(handle)
        most = max(most, sum(not each.done() for each in handles))
        return handle

    monkeypatch.setattr(fake, "submit", submit_slow)

    result = cli("generate", input="\n".join(f"p{index}" for index in range(20)))

    assert result.stdout.split() == [f"P{index}" for index in range(20)]
    assert most == 3


@pytest.mark.parametrize(
    ("context", "args", "says"),
    [
        (9, ("cut",), "it ended after 2 tokens; --max-tokens allows more.\n"),
        (5, ("cut",), "ended after 2 tokens, because the context of 5 is full.\n"),
        (9, ("whole", "cut a", "cut b"), "3 prompts, 2 cut by their length; "),
        (9, ("whole", "all"), "2 prompts; "),
    ],
)
def test_a_terminal_shows_that_an_answer_was_cut(
    context, args, says, fake, cli, monkeypatch
):
    monkeypatch.setattr(fake.limits, "max_model_len", context)
    monkeypatch.setattr("unillm.cli.generate.is_terminal", lambda _: True)

    result = cli("generate", *args)

    assert says in result.stderr


# ---------------------------------------------------------------------------- options


def test_without_sampling_options_the_models_defaults_apply(fake, cli):
    cli("generate", "a")

    [(_, params)] = fake.created[0].asked
    assert params == fake.default_params


def test_sampling_options_change_the_models_defaults(fake, cli):
    cli("generate", "a", "--top-k", 5, "--stop", ";", "--stop", "end", "--ignore-eos")

    [(_, params)] = fake.created[0].asked
    assert params == SamplingParams(
        temperature=0.5, max_tokens=99, top_k=5, stop=(";", "end"), ignore_eos=True
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("temperature", 0.0),
        ("top_p", 0.9),
        ("top_k", -1),
        ("min_p", 0.1),
        ("seed", 0),
        ("max_tokens", 3),
        ("min_tokens", 40),
        ("n", 2),
        ("repetition_penalty", 1.1),
        ("presence_penalty", -0.5),
        ("frequency_penalty", 0.5),
        ("logprobs", 0),
        ("truncate_prompt_tokens", -1),
    ],
)
def test_each_sampling_option_reaches_the_params(flag, value, fake, cli):
    result = cli("generate", "a", "--json", f"--{flag.replace('_', '-')}", value)

    [(_, params)] = fake.created[0].asked
    assert getattr(params, flag) == value
    assert result.exit_code == 0


def test_engine_options_reach_the_generator(fake, cli):
    cli(
        *("generate", "a", "-m", "some/model", "--backend", "vllm"),
        *("--dtype", "float16", "--max-model-len", 512, "--max-num-seqs", 4),
        *("--max-num-batched-tokens", 64, "--trust-remote-code"),
        *("--tokenizer", "other", "--option", "tp=2", "--option", "mode=fast=1"),
    )

    [generator] = fake.created
    assert generator.model == "some/model"
    assert generator.options == {
        "backend": "vllm",
        "dtype": "float16",
        "max_model_len": 512,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "trust_remote_code": True,
        "tokenizer": "other",
        "backend_options": {"tp": 2, "mode": "fast=1"},
    }


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["a", "--temperature", "9"], "temperature must be a number in 0..2, got 9"),
        (["a", "--n", "2", "--temperature", "0"], "n=2 with temperature=0"),
        (["a", "--option", "tp"], "--option takes KEY=VALUE, got 'tp'"),
        (["a", "--option", "k=1", "--option", "k=2"], "--option k is given twice"),
        (["a", "--system", "Be kind."], "Add --chat"),
        (["a", "--logprobs", "2"], "Add --json"),
        (["a", "-f", "b"], "not both"),
        (["-f", "/none/such"], "cannot be read"),
        ([], "There is no prompt in standard input"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "none",
)
def test_wrong_usage_is_refused_before_a_model_is_loaded(args, says, fake, cli):
    result = cli("generate", *args)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert fake.created == []
