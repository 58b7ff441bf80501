# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import gzip
import json
import os
import sys

import pytest

from unillm.cli.prompts import InputFormat, count_prompts, open_prompts
from unillm.errors import ConfigError


def read(file, input_format=InputFormat.AUTO):
    with open_prompts([], str(file), input_format) as found:
        return list(found)


@pytest.fixture
def lines(tmp_path):
    """Write lines to a file of that name."""

    def write(*given, name="prompts.txt"):
        path = tmp_path / name
        path.write_bytes(b"".join(line.encode() + b"\n" for line in given))
        return path

    return write


def test_a_file_has_one_prompt_a_line(lines):
    found = read(lines("one", "", "  ", "two  "))

    assert [prompt.text for prompt in found] == ["one", "two  "]
    assert found[1].place.endswith("prompts.txt, line 4")


def test_windows_line_ends_and_byte_order_mark_are_not_part_of_a_prompt(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffgrün\r\nblau\r\n".encode())

    assert [prompt.text for prompt in read(path)] == ["grün", "blau"]


def test_json_lines_take_all_forms(lines):
    chat = [{"role": "user", "content": "hi"}]
    path = lines(
        json.dumps({"prompt": "one", "id": 7}),
        json.dumps({"prompt_token_ids": [1, 2]}),
        json.dumps({"messages": chat}),
        json.dumps("bare"),
        json.dumps(
            {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "b"}}
        ),
        name="prompts.jsonl",
    )

    text, ids, messages, bare, batch = found = read(path)

    assert [each.error for each in found] == [None] * 5
    assert (text.text, text.ids) == ("one", {"id": 7})
    assert ids.as_input() == {"prompt_token_ids": [1, 2]}
    assert messages.as_input() == {"messages": chat}
    assert bare.text == "bare"
    assert (batch.text, batch.ids) == ("b", {"custom_id": "a"})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "has none of them"),
        ("[1, 2]", "with a prompt or messages, or a text, got list"),
        ('{"prompt": "a", "messages": []}', "has prompt and messages"),
        ('{"prompt_token_ids": [1], "prompt": "a"}', "has prompt and prompt_token_ids"),
        ('{"prompt": "a", "temprature": 1}', "Did you mean 'temperature'"),
        (
            '{"prompt": "a", "temperature": "hot"}',
            "temperature: Expected `float | null`",
        ),
        ('{"custom_id": "a", "body": {}}', "has no url"),
        ('{"custom_id": "a", "url": "/v1/x", "body": {}}', "may name /v1/completions"),
        ('{"prompt": 3}', "prompt must be a text, got 3"),
        ('{"prompt_token_ids": "1 2"}', "must be a list"),
    ],
    ids=[
        *("cut", "deep", "empty", "list", "two", "text and ids", "unknown field"),
        *("wrong value", "no url", "other url", "number", "text-ids"),
    ],
)
def test_a_bad_line_is_a_failed_prompt_among_good_ones(line, says, lines):
    bad, good = read(lines(line, '{"prompt": "good"}', name="p.jsonl"))

    assert says in str(bad.error)
    assert good.text == "good"


def test_a_line_that_is_not_utf8_fails_alone(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"good\n\xff\xfe\nbetter\n")

    first, bad, last = read(path)

    assert "not UTF-8" in str(bad.error)
    assert (first.text, last.text) == ("good", "better")


def test_a_compressed_file_is_read_as_what_it_holds(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n'))

    assert [prompt.text for prompt in read(path)] == ["a"]


def test_a_document_is_one_prompt(lines):
    path = lines("first", "", "second")

    [whole] = read(path, InputFormat.TEXT)

    assert whole.text == "first\n\nsecond"


def test_the_format_can_be_said(lines):
    [as_text] = read(lines('{"prompt": "a"}', name="p.jsonl"), InputFormat.LINES)
    [as_json] = read(lines('{"prompt": "a"}', name="p.txt"), InputFormat.JSONL)

    assert as_text.text == '{"prompt": "a"}'
    assert as_json.text == "a"


def test_a_missing_file_is_a_usage_error(tmp_path):
    path = tmp_path / "none"

    with pytest.raises(ConfigError) as caught:
        read(path)

    assert str(caught.value) == f"{path} cannot be read: No such file or directory."


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no path there")
def test_a_pipe_is_read_once():
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo\n")
    os.close(writing)
    path = f"/dev/fd/{reading}"

    assert count_prompts([], path) is None
    assert [prompt.text for prompt in read(path)] == ["one", "two"]
    os.close(reading)


def test_arguments_and_file_together_are_a_usage_error():
    with (
        pytest.raises(ConfigError, match="not both"),
        open_prompts(["a"], "b", InputFormat.AUTO),
    ):
        pass
