# SPDX-License-Identifier: Apache-2.0

"""Ray Data on a cluster of two nodes in one machine, with the bundled model."""

from __future__ import annotations

import gc

import psutil
import pytest
import ray
import unillm_ray
from fragile_engine import CRASHES, DIES_ONCE
from questions import GREEDY, TINY, prompts

from unillm import SamplingParams
from unillm.errors import InvalidParameterError


def dataset(count, **columns):
    """Rows with an id and a prompt, in many blocks."""
    rows = [{"id": i, "prompt": prompt} for i, prompt in enumerate(prompts(count))]
    return ray.data.from_items(rows, override_num_blocks=max(1, count // 10))


def texts(rows):
    """Texts by id; each id is there once."""
    found = {row["id"]: row["generated_text"] for row in rows}
    assert len(found) == len(rows)
    return found


def processes_of(node):
    """Commands of the actors of Ray Data on a node."""
    [raylet] = node.all_processes["raylet"]
    children = psutil.Process(raylet.process.pid).children(recursive=True)
    return [each.cmdline()[0] for each in children if "MapWorker" in each.cmdline()[0]]


def test_rows_keep_their_columns_and_a_bad_row_stays_beside_its_error(
    cluster, generator
):
    rows = [{"id": i, "prompt": prompt} for i, prompt in enumerate(prompts(20))]
    rows[3]["prompt"] = "Add 1 and 2: " * 2000
    rows[8]["prompt"] = None

    done = unillm_ray.generate(
        ray.data.from_items(rows, override_num_blocks=4),
        "unillm/tiny",
        GREEDY,
        **TINY,
    )
    done = done.sort("id").take_all()

    good = [i for i in range(20) if i not in (3, 8)]
    outputs = generator.generate([rows[i]["prompt"] for i in good], GREEDY)
    assert [(row["id"], row["prompt"]) for row in done] == [
        (row["id"], row["prompt"]) for row in rows
    ]
    assert [done[i]["generated_text"] for i in good] == [o.text for o in outputs]
    assert [done[i]["error"] for i in good] == [None] * 18
    assert done[3]["error"].startswith("PromptTooLongError: ")
    assert done[8]["error"].startswith("InvalidPromptError: ")
    assert [done[i]["generated_text"] for i in (3, 8)] == [None, None]


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_a_killed_node_loses_no_row(cluster, second_node, generator, count):
    done = unillm_ray.generate(
        dataset(count), "unillm/tiny", GREEDY, num_replicas=2, **TINY
    )

    rows, on_killed = [], []
    for row in done.iter_rows():
        rows.append(row)
        if len(rows) == count // 4:
            on_killed = processes_of(second_node)
            cluster.remove_node(second_node, allow_graceful=False)

    outputs = generator.generate(prompts(count), GREEDY)
    assert len(on_killed) == 1
    assert texts(rows) == {i: output.text for i, output in enumerate(outputs)}


def test_an_impossible_job_fails_with_the_reason(cluster):
    with pytest.raises(InvalidParameterError, match="a row has one text"):
        unillm_ray.generate(dataset(1), "unillm/tiny", SamplingParams(n=2))
    done = unillm_ray.generate(
        ray.data.from_items([{"text": "a"}]), "unillm/tiny", backend="fragile"
    )
    with pytest.raises(ray.exceptions.RayTaskError, match="It has text"):
        done.take_all()


def of_tokens(*first):
    """Rows of prompts that begin with these token ids."""
    rows = [{"id": i, "prompt_token_ids": [token, 9]} for i, token in enumerate(first)]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def fragile(dataset, **options):
    return unillm_ray.generate(
        dataset, "unillm/tiny", GREEDY, backend="fragile", max_num_seqs=8, **options
    )


def test_the_rows_of_an_engine_that_dies_are_repeated(cluster):
    rows = fragile(of_tokens(*[9] * 10, DIES_ONCE, *[9] * 10)).take_all()

    assert sorted(row["id"] for row in rows) == list(range(21))
    assert {row["num_generated_tokens"] for row in rows} == {60}
    assert {row["error"] for row in rows} == {None}


@pytest.mark.long
def test_a_prompt_that_ends_each_process_ends_the_job(cluster):
    with pytest.raises(ray.exceptions.RayError, match="died"):
        fragile(of_tokens(9, CRASHES, 9)).take_all()


@pytest.mark.long
def test_an_engine_that_spans_nodes_has_a_placement_group(cluster, second_node):
    done = fragile(of_tokens(9), resources=[{"CPU": 5}, {"CPU": 2}])

    [row] = done.take_all()

    assert row["num_generated_tokens"] == 60
    [group] = ray.util.placement_group_table().values()
    assert group["strategy"] == "PACK"
    assert len(set(group["bundles_to_node_id"].values())) == 2

    del done
    gc.collect()
    [group] = ray.util.placement_group_table().values()
    assert group["state"] == "REMOVED"
