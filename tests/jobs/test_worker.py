# SPDX-License-Identifier: Apache-2.0

"""The bundled model answers the lines of jobs as it answers a server's requests."""

from __future__ import annotations

import json

import pytest

from unillm import Generator, SamplingParams, run_batch
from unillm.jobs import Line, LocalWorker


@pytest.fixture(scope="module")
def generator():
    with Generator("unillm/tiny", backend="transformers") as generator:
        yield generator


def test_texts_are_those_of_the_generator(
    generator, batch_line, given, rows_of, tmp_path
):
    prompts = [f"Count from {n} to {n + 4}:" for n in range(30)]
    lines = (batch_line(p, p, temperature=0, max_tokens=40) for p in prompts)

    run_batch(given(*lines), tmp_path / "out.jsonl", generator)

    bodies = [row["response"]["body"] for row in rows_of(tmp_path / "out.jsonl")]
    texts = [body["choices"][0]["message"]["content"] for body in bodies]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    params = SamplingParams(temperature=0, max_tokens=40)
    assert texts == [each.text for each in generator.chat(chats, params)]
    assert {body["object"] for body in bodies} == {"chat.completion"}
    assert {body["model"] for body in bodies} == {"unillm/tiny"}


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ({"url": "/v1/nothing"}, 404, "There is no endpoint"),
        ({"model": "other"}, 404, "does not exist"),
        ({"stream": True}, 400, "no meaning in a batch file"),
        ({"temperatur": 1}, 400, "Did you mean 'temperature'"),
        ({"temperature": -1}, 400, "temperature"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, 400, "context"),
        ({"n": 2, "is_row": True}, 400, "A row of the output has one text"),
    ],
    ids=["url", "model", "stream", "name", "value", "long", "row"],
)
def test_a_refused_line_has_the_answer_of_the_server(generator, line, status, message):
    worker = LocalWorker(generator)
    worker.open()
    messages = [{"role": "user", "content": "Hi"}]
    fields = {"messages": messages, "max_tokens": 4, **line}
    url, is_row = fields.pop("url", "/v1/chat/completions"), fields.pop("is_row", False)

    worker.submit(Line(3, url, json.dumps(fields).encode(), "id", 1, 5, is_row))
    [answer] = worker.answers(None)

    assert (answer.index, answer.status) == (3, status)
    assert message in json.loads(answer.body)["error"]["message"]


def test_a_line_has_the_same_random_answer_in_each_run(generator):
    worker = LocalWorker(generator)
    worker.open()
    fields = {"prompt": "Once", "max_tokens": 20, "temperature": 2.0}
    body = json.dumps(fields).encode()
    lines = [
        Line(n, "/v1/completions", body, "id", 1, seed, is_row=True)
        for n, seed in enumerate((5, 5, 6))
    ]
    for line in lines:
        worker.submit(line)
    found = {}
    while len(found) < 3:
        found |= {answer.index: answer.text for answer in worker.answers(60)}

    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_job_does_not_depend_on_the_number_of_engines():
    one, two = (
        LocalWorker("unillm/tiny", backend="transformers", **options).identity
        for options in ({}, {"data_parallel_size": 2})
    )

    assert one == two


@pytest.mark.parametrize("changed", ["adapter", "tokenizer"])
def test_a_job_depends_on_the_files_of_adapters_and_tokenizers(changed, tmp_path):
    for name in ("adapter", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.json").write_text("{}")

    def identity():
        adapters = {"a": str(tmp_path / "adapter")}
        tokenizer = tmp_path / "tokenizer"
        options = {"backend": "transformers", "tokenizer": tokenizer}
        return LocalWorker("unillm/tiny", lora_modules=adapters, **options).identity

    before = identity()
    assert identity() == before
    (tmp_path / changed / "a.json").write_text('{"another": 1}')

    assert identity() != before


def test_a_body_with_several_prompts_has_several_choices(
    generator, given, rows_of, tmp_path
):
    body = {"prompt": ["Count from 1 to 3:", "Count from 2 to 4:"], "temperature": 0}
    line = {"custom_id": "a", "url": "/v1/completions", "body": body}

    run_batch(given(json.dumps(line)), tmp_path / "out.jsonl", generator)

    [row] = rows_of(tmp_path / "out.jsonl")
    choices = row["response"]["body"]["choices"]
    assert [choice["text"] for choice in choices] == ["1 2 3", "2 3 4"]
