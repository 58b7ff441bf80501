# SPDX-License-Identifier: Apache-2.0

"""The options for a Ray cluster. The plugin's own tests run Ray."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import unillm
from unillm.cli.app import app
from unillm.distributions import install_plugin
from unillm.jobs import BatchReport


@pytest.fixture
def calls(monkeypatch):
    """Calls of the plugin, which is not installed here."""
    calls = []
    plugin = types.ModuleType("unillm_ray")
    plugin.serve_until_signal = lambda *args, **kwargs: calls.append((args, kwargs))
    monkeypatch.setitem(sys.modules, "unillm_ray", plugin)
    return calls


def serve(*arguments):
    return CliRunner().invoke(app, ["serve", "unillm/tiny", *arguments])


def test_the_plugin_gets_the_options_of_the_server_and_of_the_engine(calls):
    result = serve(
        *("--ray", "auto", "--replicas", "1:4", "--resources", '{"CPU": 2}'),
        *("--backend", "vllm", "--max-num-seqs", "8", "--max-num-queued-reqs", "9"),
        *("--port", "81", "--served-model-name", "mine"),
    )

    assert result.exit_code == 0, result.output
    [((model, settings), options)] = calls
    assert model == "unillm/tiny"
    assert (settings.port, settings.served_model_name) == (81, ("mine",))
    assert options["address"] == "auto"
    assert options["replicas"] == (1, 4)
    assert options["resources"] == {"CPU": 2}
    given = {"backend": "vllm", "max_num_seqs": 8, "max_queued_requests": 9}
    assert options["options"].items() >= given.items()


def test_an_engine_that_spans_machines_has_resources_for_each_process(calls):
    serve("--ray", "auto", "--replicas", "2", "--resources", '[{"GPU": 1}, {"GPU": 1}]')

    [(_, options)] = calls
    assert options["replicas"] == (2, 2)
    assert options["resources"] == [{"GPU": 1}, {"GPU": 1}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replicas", "2"], "need --ray ADDRESS"),
        (["--ray", "auto", "--uds", "x"], "does not listen on a Unix socket"),
        (["--ray", "auto", "--replicas", "4:1"], "--replicas takes a count"),
        (["--ray", "auto", "--replicas", "0"], "--replicas takes a count"),
        (["--ray", "auto", "--replicas", "many"], "--replicas takes a count"),
        (["--ray", "auto", "--resources", "2"], "--resources takes a JSON object"),
        (["--ray", "auto", "--resources", '{"GPU": "1"}'], "--resources takes"),
    ],
)
def test_options_that_cannot_work_are_refused(calls, arguments, words):
    result = serve(*arguments)

    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert calls == []


def test_the_plugin_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "unillm_ray", None)

    result = serve("--ray", "auto")

    assert result.exit_code == 2
    assert install_plugin("ray") in " ".join(result.output.split())


def batch(*arguments):
    return CliRunner().invoke(app, ["batch", "in.jsonl", "-o", "out", *arguments])


def test_a_batch_job_has_a_worker_on_the_cluster(calls, monkeypatch):
    made, jobs = [], []

    def make(*args, **kwargs):
        made.append((args, kwargs))
        return "worker"

    def run(*args, **kwargs):
        jobs.append((args, kwargs))
        return BatchReport(output=Path("out"), num_lines=1, num_failed=0)

    sys.modules["unillm_ray"].RayWorker = make
    monkeypatch.setattr(unillm, "run_batch", run)

    result = batch("--ray", "auto", "--replicas", "3", "--max-num-seqs", "8")

    assert result.exit_code == 0, result.output
    [(args, options)] = made
    assert args == ("unillm/tiny",)
    assert (options["address"], options["num_replicas"]) == ("auto", 3)
    assert options["max_num_seqs"] == 8
    [(args, options)] = jobs
    assert args == (["in.jsonl"], "out", "worker")
    assert "max_num_seqs" not in options


def test_a_batch_job_has_a_fixed_number_of_replicas(calls):
    result = batch("--ray", "auto", "--replicas", "1:3")

    assert result.exit_code == 2
    assert "a fixed number of replicas, got 1:3" in " ".join(result.output.split())
