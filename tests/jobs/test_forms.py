# SPDX-License-Identifier: Apache-2.0

"""Forms of input and output: tables, compressed files, patterns, standard input."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from unillm import run_batch
from unillm.errors import BatchInputError, ConfigError


def test_a_csv_file_gets_columns(scripted, given, tmp_path):
    path = given(
        "id,prompt,max_tokens,seed,stop",
        '1,"two\nlines",5,,END',
        "2,fail,,,",
        "3,too,many,fields,are,here",
        name="in.csv",
    )
    output, worker = tmp_path / "out.csv", scripted()

    report = run_batch(path, output, worker)

    rows = list(csv.DictReader(io.StringIO(output.read_text("utf-8"), newline="")))
    assert [row["id"] for row in rows] == ["1", "2", ""]
    assert rows[0]["prompt"] == "two\nlines"
    assert rows[0]["generated_text"] == "TWO\nLINES"
    assert rows[0]["num_generated_tokens"] == "2"
    assert rows[1]["error"] == "it failed"
    assert "another number of fields" in rows[2]["error"]
    body = json.loads(worker.submitted[0].body)
    assert body == {"prompt": "two\nlines", "max_tokens": 5, "stop": "END"}
    assert report.failed.name == "out.failed.csv"
    assert report.failed.read_text().splitlines() == [
        "id,prompt,max_tokens,seed,stop",
        "2,fail,,,",
        "3,too,many,fields,are,here",
    ]


def test_two_columns_of_one_name_are_refused(scripted, given, tmp_path):
    path = given("prompt,id,id", "a,1,2", name="in.csv")

    with pytest.raises(BatchInputError, match="two columns 'id'"):
        run_batch(path, tmp_path / "out.csv", scripted())


def test_a_parquet_file_keeps_the_types_of_its_columns(scripted, tmp_path):
    table = pa.table(
        {
            "when": pa.array([1, 2, None], pa.timestamp("us")),
            "raw": [b"\x00", b"\xff", None],
            "prompt": ["a", "fail", "c"],
            "tags": [["x"], [], None],
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")

    report = run_batch(
        tmp_path / "in.parquet", tmp_path / "out.parquet", scripted(last_first=True)
    )

    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names) == table
    assert found["generated_text"].to_pylist() == ["A", None, "C"]
    assert found["error"].to_pylist() == [None, "it failed", None]
    assert found["num_prompt_tokens"].to_pylist() == [3, None, 3]
    assert parquet.read_table(report.failed) == table.slice(1, 1)


def test_conversations_of_a_parquet_file_have_no_empty_fields(scripted, tmp_path):
    messages = [[{"role": "user", "content": "a"}], [{"role": "user", "name": "b"}]]
    parquet.write_table(pa.table({"messages": messages}), tmp_path / "in.parquet")
    worker = scripted()

    with pytest.raises(KeyError):  # the second has no content; the worker looks for it
        run_batch(tmp_path / "in.parquet", tmp_path / "out.parquet", worker)

    bodies = [json.loads(line.body)["messages"][0] for line in worker.submitted]
    assert bodies == [
        {"role": "user", "content": "a"},
        {"role": "user", "name": "b"},
    ]


def test_columns_of_a_table_are_chosen_by_name(scripted, given, tmp_path):
    path = given("question,n,id", "why,9,1", name="in.csv")
    output = tmp_path / "out.csv"

    run_batch(
        path,
        output,
        scripted(),
        prompt_template="{{ question }}?",
        columns=["id", "question"],
    )

    [row] = csv.DictReader(io.StringIO(output.read_text()))
    assert list(row)[:3] == ["id", "question", "generated_text"]
    assert row["generated_text"] == "WHY?"
    with pytest.raises(ConfigError, match="names 'no'"):
        run_batch(path, tmp_path / "no.csv", scripted(), columns=["no"])


def test_a_column_of_the_output_is_not_overwritten(scripted, given, rows_of, tmp_path):
    table = given("prompt,error", "a,b", name="in.csv")
    lines = given('{"prompt": "a", "error": "b"}')

    with pytest.raises(ConfigError, match="'error' has the name"):
        run_batch(table, tmp_path / "out.csv", scripted())
    run_batch(lines, tmp_path / "out.jsonl", scripted())

    assert "'error' has the name" in rows_of(tmp_path / "out.jsonl")[0]["error"]


def test_compressed_files_are_read_by_their_content(scripted, tmp_path, batch_line):
    lines = [batch_line(f"r{n}", "p") for n in range(5)]
    text = "".join(f"{line}\r\n" for line in lines).encode()
    # Two members, as `cat` makes them; the name says nothing.
    (tmp_path / "in").write_bytes(gzip.compress(text[:40]) + gzip.compress(text[40:]))
    output = tmp_path / "out.jsonl.gz"

    run_batch(tmp_path / "in", output, scripted())

    rows = [
        json.loads(line) for line in gzip.decompress(output.read_bytes()).splitlines()
    ]
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(5)]


def test_zstd_is_read_and_written(scripted, tmp_path, batch_line):
    zstandard = pytest.importorskip("zstandard", reason="needs zstandard")
    text = "".join(f"{batch_line(f'r{n}', 'p')}\n" for n in range(5)).encode()
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "in.zst").write_bytes(compress(text[:40]) + compress(text[40:]))
    output = tmp_path / "out.jsonl.zst"

    run_batch(tmp_path / "in.zst", output, scripted())

    with zstandard.open(output, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(5)]


def test_a_damaged_file_is_refused(scripted, tmp_path):
    (tmp_path / "in.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 99)[:-20])

    with pytest.raises(BatchInputError, match=r"in\.gz cannot be read"):
        run_batch(tmp_path / "in.gz", tmp_path / "out.jsonl", scripted())


def test_a_pattern_stands_for_its_files_in_order(
    scripted, given, tmp_path, batch_line, rows_of
):
    given("\ufeff" + batch_line("b", "p"), name="2.jsonl")
    given("\ufeff" + batch_line("a", "p"), name="1.jsonl")

    run_batch(str(tmp_path / "?.jsonl"), tmp_path / "out.jsonl", scripted())

    assert [row["custom_id"] for row in rows_of(tmp_path / "out.jsonl")] == ["a", "b"]
    with pytest.raises(BatchInputError, match="No file matches"):
        run_batch(str(tmp_path / "*.nothing"), tmp_path / "no.jsonl", scripted())
    assert not (tmp_path / "no.jsonl.job").exists()


def test_standard_input_is_copied_so_that_its_job_goes_on(
    scripted, tmp_path, batch_line, monkeypatch, folder_of
):
    text = "".join(f"{batch_line(f'r{n}', 'p')}\n" for n in range(6))
    output, second = tmp_path / "out.jsonl", scripted()

    def pipe():
        stream = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stream)

    pipe()
    with pytest.raises(Exception, match="the engine died"):
        run_batch("-", output, scripted(dies_after=2))
    pipe()
    run_batch("-", output, second)

    assert [line.index for line in second.submitted] == [2, 3, 4, 5]
    assert folder_of(output) == {"job.json", "lock"}


def test_files_of_several_forms_are_refused(scripted, given, tmp_path):
    paths = [given("prompt", "a", name="a.csv"), given('{"prompt": "a"}')]

    with pytest.raises(BatchInputError, match="have one form"):
        run_batch(paths, tmp_path / "out.jsonl", scripted())
