# SPDX-License-Identifier: Apache-2.0

"""The class that Ray Data runs, called without Ray."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest
from questions import GREEDY, TINY, prompts
from unillm_ray import _deaths
from unillm_ray._actor import RowGenerator

from unillm import SamplingParams
from unillm.errors import ConfigError
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine


@pytest.fixture(scope="module")
def rows():
    actor = RowGenerator("unillm/tiny", GREEDY, TINY)
    yield actor
    del actor


def run(rows, *tables):
    async def calls():
        return await asyncio.gather(*map(rows, tables))

    return [table.to_pylist() for table in asyncio.run(calls())]


def test_batches_at_the_same_time_have_the_texts_of_one_generator(rows, generator):
    given = prompts(24)
    tables = [
        pa.table({"id": range(start, start + 6), "prompt": given[start : start + 6]})
        for start in range(0, 24, 6)
    ]

    done = [row for batch in run(rows, *tables) for row in batch]

    expected = generator.generate(given, GREEDY)
    assert [row["id"] for row in done] == list(range(24))
    assert [row["generated_text"] for row in done] == [o.text for o in expected]
    assert [row["generated_tokens"] for row in done] == [o.token_ids for o in expected]


def test_a_bad_row_has_its_error_and_the_others_their_texts(rows):
    params = [{"max_tokens": 4}, {"max_tokens": 0}, {"n": 2}, {}]
    table = pa.table(
        {
            "prompt": ["Add 1 and 2:", "Add 1 and 2:", "a", "Add 1 and 2: " * 2000],
            "sampling_params": pa.array(
                params, pa.struct([("max_tokens", pa.int64()), ("n", pa.int64())])
            ),
        }
    )

    [done] = run(rows, table)

    assert [row["generated_text"] for row in done] == ["3", None, None, None]
    assert [(row["error"] or "").partition(":")[0] for row in done] == [
        "",
        "InvalidParameterError",
        "InvalidParameterError",
        "PromptTooLongError",
    ]


def test_a_batch_of_bad_rows_alone_does_not_reach_the_engine(rows):
    [[row]] = run(rows, pa.table({"prompt": pa.array([None], pa.string())}))

    assert row["error"].startswith("InvalidPromptError: A row needs a value")


def test_conversations_come_as_columns_of_dicts(rows, generator):
    messages = [{"role": "user", "content": "Add 17 and 25:"}]

    [[row]] = run(rows, pa.table({"messages": [messages]}))

    assert row["generated_text"] == generator.chat(messages, GREEDY)[0].text


def test_a_dataset_that_can_never_be_computed_is_an_error_of_the_job(rows):
    with pytest.raises(ConfigError, match="It has text"):
        run(rows, pa.table({"text": ["a"]}))


def test_rows_without_params_have_the_defaults_of_the_model(generator):
    actor = RowGenerator("unillm/tiny", None, TINY)

    [[row]] = run(actor, pa.table({"prompt": ["Add 1 and 2:"]}))

    defaults = generator.get_default_sampling_params()
    expected = generator.generate("Add 1 and 2:", defaults)[0].text
    assert row["generated_text"] == expected


def test_a_dead_engine_ends_the_process(monkeypatch):
    class Dying(ScriptedEngine):
        def step(self):
            raise OSError("the device is lost")

    class EndedError(Exception):
        pass

    def end(status):
        raise EndedError(status)

    monkeypatch.setattr(_deaths.os, "_exit", end)
    backend = ScriptedBackend(lambda config: Dying(lambda *_: 5))
    with plugged(backend):
        actor = RowGenerator("unillm/tiny", SamplingParams(), {"backend": "scripted"})
        with pytest.raises(EndedError) as ended:
            run(actor, pa.table({"prompt": ["a"]}))
        del actor

    assert ended.value.args == (1,)
