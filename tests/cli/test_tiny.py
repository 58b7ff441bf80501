# SPDX-License-Identifier: Apache-2.0

"""The command line with the bundled model on the embedded backend."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from cli.screen import Screen

import unillm

COUNT = "Count from 3 to 9:"
ANSWER = "3 4 5 6 7 8 9"


@pytest.fixture
def background(process_environment):
    """Start the command line without waiting; the fixture kills it after the test."""
    started = []

    def start(*args, **options):
        command = [sys.executable, "-m", "unillm", *args]
        started.append(subprocess.Popen(command, env=process_environment, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


# ------------------------------------------------------------------------- one process


def test_the_first_command_prints_the_answer_and_nothing_else(process):
    result = process("generate", COUNT)

    assert result.stdout == f"{ANSWER}\n"
    assert result.stderr == ""
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("args", "input_"),
    [(["generate", COUNT], ""), (["chat"], f"{COUNT}\n")],
    ids=["generate", "chat"],
)
def test_a_reader_that_leaves_ends_the_command_without_a_message(
    args, input_, background
):
    process = background(
        *(*args, "--ignore-eos", "--max-tokens", "900"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(input_.encode())
    process.stdin.flush()

    first = process.stdout.read(1)
    process.stdout.close()
    stderr = process.stderr.read()

    assert first == b"3"
    assert stderr == b""
    assert process.wait(30) == 141


def test_ctrl_c_ends_a_stream_with_130_and_no_traceback(background):
    process = background(
        *("generate", "--ignore-eos", "--max-tokens", "900", COUNT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )

    assert process.stdout.read(1) == b"3"
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate(timeout=30)

    assert len(rest) < 900  # it was not waited for
    assert rest.endswith(b"\n")
    assert stderr == b""
    assert process.returncode == 130


def test_a_terminal_gets_headers_a_bar_and_the_totals(process_environment):
    screen = Screen(["generate", COUNT, "Add 2 and 3:"], process_environment)

    code = screen.end()
    screen.close()

    assert code == 0
    assert f"── prompt 1  {COUNT}\n{ANSWER}\n" in screen.text
    assert "── prompt 2  Add 2 and 3:\n5\n" in screen.text
    assert "2/2" in screen.text
    assert "note: 2 prompts; 20 prompt tokens and 16 new ones in " in screen.text


# ----------------------------------------------------------------------- this process


def test_bytes_come_in_and_out_as_utf8(cli):
    result = cli("generate", input="Repeat: grün 猫:\nRepeat: café:\n".encode())

    assert result.stdout_bytes.decode() == "grün 猫\ncafé\n"


def test_json_has_the_values_of_the_library(cli):
    result = cli("generate", "--json", COUNT, "Add 20 and 22:")

    with unillm.Generator("unillm/tiny") as generator:
        expected = generator.generate([COUNT, "Add 20 and 22:"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    for line, output in zip(lines, expected, strict=True):
        assert line["prompt"] == output.prompt
        assert line["text"] == output.text
        assert line["token_ids"] == output.token_ids
        assert line["finish_reason"] == "stop"
        assert line["stop_reason"] == output.outputs[0].stop_reason
        assert line["num_prompt_tokens"] == len(output.prompt_token_ids)
        assert line["metrics"]["num_generation_tokens"] == len(output.token_ids)
        assert line["metrics"]["first_token_latency_s"] > 0
        assert line["error"] is None


def test_a_chat_is_answered_as_the_library_does(cli):
    system = "You are a friendly robot."
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": COUNT},
    ]
    with unillm.Generator("unillm/tiny") as generator:
        [expected] = generator.chat(messages)

    args = ("generate", "--chat", "--system", system, COUNT)
    [line] = map(json.loads, cli(*args, "--json").stdout.splitlines())

    assert cli(*args).stdout == f"{ANSWER}\n"
    assert line["prompt"] == expected.prompt
    assert line["token_ids"] == expected.token_ids
    assert line["num_prompt_tokens"] == len(expected.prompt_token_ids)


def test_json_lines_of_all_forms(cli, tmp_path):
    with unillm.Generator("unillm/tiny") as generator:
        [output] = generator.generate(COUNT)
    path = tmp_path / "prompts.jsonl"
    entries = [
        {"prompt": COUNT},
        {"prompt_token_ids": output.prompt_token_ids},
        {"messages": [{"role": "user", "content": COUNT}]},
        {"messages": [{"role": "user"}, 3]},
    ]
    path.write_text("\n".join(map(json.dumps, entries)))

    result = cli("generate", "-f", path)

    assert result.stdout == f"{ANSWER}\n" * 3
    assert "line 4: messages[1]: Expected `object`, got `int`" in result.stderr
    assert result.exit_code == 1


def test_a_schema_holds_for_every_answer_and_a_document_is_one_prompt(cli, tmp_path):
    document = tmp_path / "document.txt"
    document.write_text("The first line.\n\nThe last one.\n")

    result = cli(
        *("generate", "-f", document, "--input-format", "text", "--json"),
        *("--schema", '{"type": "integer", "maximum": 9}'),
    )

    [line] = map(json.loads, result.stdout.splitlines())
    assert line["prompt"] == "The first line.\n\nThe last one."
    assert int(line["text"]) <= 9


def test_logprobs_are_in_the_json(cli):
    result = cli("generate", "--json", "--logprobs", 2, "--max-tokens", 2, COUNT)

    [line] = map(json.loads, result.stdout.splitlines())
    assert line["finish_reason"] == "length"
    assert [len(position) for position in line["logprobs"]] == [2, 2]
    assert line["logprobs"][0][0]["token_id"] == line["token_ids"][0]
    assert line["cumulative_logprob"] <= 0


def test_a_cut_prompt_and_a_fitted_length_are_noted(cli):
    long = "Repeat: " + "word " * 100
    result = cli(
        *("generate", "--max-model-len", 64, "--max-tokens", 50),
        *("--truncate-prompt-tokens", -1, long),
    )

    assert "tokens were cut from the prompt's start" in result.stderr
    assert "left room for 1 new tokens" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["-m", "unillm/tny"], 3, "unillm/tny"),
        (["-m", "/none/such"], 3, "There is no directory '/none/such'"),
        (["--backend", "vlm"], 4, "No backend is called 'vlm'"),
        (["--option", "tp=2"], 2, "has no option 'tp'"),
        (["--dtype", "int3"], 2, "dtype must be one of"),
        (["--logprobs", "99", "--json"], 2, None),
    ],
    ids=["hub", "directory", "backend", "option", "dtype", "logprobs"],
)
def test_an_error_is_one_message_with_its_code(args, code, says, cli):
    result = cli("generate", *args, COUNT)

    assert result.exit_code == code
    if says is not None:
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert says in result.stderr


def test_the_environment_chooses_the_backend(cli):
    result = cli("generate", COUNT, env={"UNILLM_BACKEND": "none-such"})

    assert result.exit_code == 4
    assert "'none-such'" in result.stderr


def test_debug_shows_what_was_chosen(cli):
    result = cli("--debug", "generate", COUNT)

    assert result.stdout == f"{ANSWER}\n"
    assert "unillm INFO: unillm/tiny on transformers" in result.stderr
