# SPDX-License-Identifier: Apache-2.0

"""Several engines of one model behind one generator."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

import pytest
from gone import is_gone, wait_until

from unillm import Generator, LoRARequest, SamplingParams
from unillm.engines.base import EngineRequest
from unillm.errors import (
    ConfigError,
    EngineDeadError,
    InvalidParameterError,
    RequestFailedError,
)
from unillm.process import channel, engine, peer
from unillm.process.devices import gpus, shares
from unillm.process.routing import BLOCK, MAX_BLOCKS, Prefixes, keys_of
from unillm.testing.contract import BackendContract
from unillm.testing.contract.aborts import AbortClauses
from unillm.testing.contract.ends import EndClauses
from unillm.testing.contract.logprobs import LogprobClauses
from unillm.testing.contract.rows import RowClauses
from unillm.testing.contract.sampling import SamplingClauses

TOKENS_20 = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)


class TestLoadedReplicas(
    EndClauses, RowClauses, AbortClauses, SamplingClauses, LogprobClauses
):
    """The clauses about a loaded engine hold on two replicas."""

    backend = "reference"
    options = {"python": sys.executable, "data_parallel_size": 2}


@pytest.mark.large
class TestReplicas(BackendContract):
    """The contract holds on two replicas as on one engine."""

    backend = "reference"
    options = {"python": sys.executable, "data_parallel_size": 2}
    waivers = {"L2": "max_num_seqs is that of a replica, and there are two"}


@pytest.fixture
def open_replicas():
    created = []

    def create(count=2, *, step_timeout_s=60.0, max_num_seqs=4, **options):
        generator = Generator(
            "unillm/tiny",
            backend="pipe",
            python=sys.executable,
            data_parallel_size=count,
            max_num_seqs=max_num_seqs,
            step_timeout_s=step_timeout_s,
            backend_options=options,
        )
        created.append(generator)
        return generator

    yield create
    for generator in created:
        generator.close()


def engine_of(generator):
    return generator._driver.engine


def replicas(generator):
    return generator.stats()["engine"]["replicas"]


def outcomes(handles):
    """Return how many requests had all tokens, and the messages of the others."""
    whole, messages = 0, []
    for handle in handles:
        try:
            whole += len(handle.result(timeout=60).token_ids) == 20
        except RequestFailedError as error:
            messages.append(str(error))
    return whole, messages


# ------------------------------------------------------------------------------- deaths


def test_a_killed_replica_loses_what_it_had_begun_and_comes_back(open_replicas):
    generator = open_replicas(at="every step", fault="slow")
    handles = [generator.submit([number], TOKENS_20) for number in range(1, 41)]
    next(iter(handles[0]))
    victim = engine_of(generator).pids[0]

    os.kill(victim, signal.SIGKILL)

    whole, messages = outcomes(handles)
    assert whole + len(messages) == 40
    assert 1 <= len(messages) <= 4
    assert all("its replica died after" in each for each in messages)
    assert all("was ended by SIGKILL" in each for each in messages)
    again = generator.submit([1], TOKENS_20)  # a step takes in what has started
    assert outcomes([again]) == (1, [])
    assert wait_until(lambda: _revived(generator))
    assert victim not in engine_of(generator).pids


def _revived(generator):
    generator.generate([[1]], TOKENS_20)
    return [each["alive"] for each in replicas(generator)] == [True, True]


def test_a_stopped_replica_counts_as_dead_and_the_others_go_on(open_replicas):
    generator = open_replicas(at="every step", fault="slow", step_timeout_s=2.0)
    handles = [generator.submit([number], TOKENS_20) for number in range(1, 9)]
    next(iter(handles[0]))
    victim = engine_of(generator).pids[0]

    os.kill(victim, signal.SIGSTOP)

    whole, messages = outcomes(handles)
    assert (whole, len(messages)) == (4, 4)
    assert all("has not answered for 2 s" in each for each in messages)
    assert wait_until(lambda: is_gone(victim))


def test_a_stopped_replica_with_a_full_socket_holds_up_no_other_one(
    open_replicas, monkeypatch
):
    def narrow():
        ends = pair()
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return ends

    pair = channel.pair
    monkeypatch.setattr(peer, "pair", narrow)
    generator = open_replicas(max_num_seqs=64)
    [stopped, _] = engine_of(generator).pids
    os.kill(stopped, signal.SIGSTOP)
    prompts = [[number] * 400 for number in range(1, 101)]
    handles = [generator.submit(prompt, TOKENS_20) for prompt in prompts]

    assert wait_until(lambda: sum(each.done() for each in handles) >= 36)

    [running, restarts] = [replicas(generator)[0][n] for n in ("running", "restarts")]
    assert (running >= 36, restarts) == (True, 0)
    assert engine_of(generator)._replicas[0].engine.has_unsent()
    os.kill(stopped, signal.SIGCONT)
    assert outcomes(handles) == (100, [])


def test_statistics_of_a_stopped_process_do_not_fill_its_socket(
    open_replicas, monkeypatch
):
    monkeypatch.setattr(engine, "STATS_TIMEOUT_S", 0.001)
    generator = open_replicas()
    [stopped, _] = engine_of(generator).pids
    os.kill(stopped, signal.SIGSTOP)

    for _ in range(1000):  # a socket pair takes some hundreds
        generator.stats()

    os.kill(stopped, signal.SIGCONT)
    assert wait_until(lambda: generator.stats()["engine"]["steps"] == 0)


def test_a_replica_whose_steps_have_no_outputs_lives(open_replicas):
    generator = open_replicas(silent_after=1, step_timeout_s=2.0)
    handle = generator.submit([1], TOKENS_20)

    # 60 steps take longer than one may.
    assert wait_until(lambda: generator.stats()["engine"].get("steps", 0) > 60)

    assert not handle.done()
    assert [each["restarts"] for each in replicas(generator)] == [0, 0]
    handle.cancel()


def test_a_request_that_kills_every_replica_fails_in_the_end(open_replicas):
    generator = open_replicas(at=1, fault="kill")

    with pytest.raises(RequestFailedError, match="its replica died after 0 new tokens"):
        generator.generate([[1]], TOKENS_20)


def test_replicas_that_cannot_be_started_again_end_the_generator(
    open_replicas, tmp_path
):
    flag = tmp_path / "flag"
    generator = open_replicas(flag=str(flag))
    flag.touch()
    for pid in engine_of(generator).pids:
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(EngineDeadError, match="exit status 1"):
        generator.generate([[1]], TOKENS_20)


def test_a_first_start_that_fails_leaves_no_process(open_replicas):
    with pytest.raises(EngineDeadError, match="exit status 1"):
        open_replicas(at="load", fault="exit_1")


def test_a_first_start_that_fails_waits_for_no_other_one(open_replicas, tmp_path):
    path = tmp_path / "pid"

    with pytest.raises(EngineDeadError, match="exit status 1"):
        open_replicas(first_hangs=str(path))

    assert wait_until(path.read_text)  # it exists, and is written soon
    assert wait_until(lambda: is_gone(int(path.read_text())))


def test_closing_ends_all_processes(open_replicas):
    generator = open_replicas(3)
    pids = engine_of(generator).pids

    generator.close()

    assert len(pids) == 3
    assert all(map(is_gone, pids))


# ------------------------------------------------------------------------------ routing


def test_the_replicas_share_the_requests(open_replicas):
    generator = open_replicas(at="every step", fault="slow")
    handles = [generator.submit([number], TOKENS_20) for number in range(1, 9)]

    assert wait_until(lambda: [e["running"] for e in replicas(generator)] == [4, 4])

    assert outcomes(handles) == (8, [])


def test_prompts_that_begin_alike_meet_in_one_replica(open_replicas):
    generator = open_replicas(max_num_seqs=8, at="every step", fault="slow")
    family = list(range(1, 2 * BLOCK + 1))
    params = SamplingParams(max_tokens=200, ignore_eos=True)
    handles = [generator.submit([*family, 100], params)]
    next(iter(handles[0]))

    handles += [generator.submit([*family, 101 + each], params) for each in range(2)]
    handles += [generator.submit([50 + each], params) for each in range(3)]

    assert wait_until(lambda: [e["running"] for e in replicas(generator)] == [3, 3])
    assert {
        engine_of(generator)._where[f"{number}-0"].number for number in range(3)
    } == {0}
    for handle in handles:
        handle.cancel()


def test_a_refusal_arrives_as_it_is(open_replicas):
    generator = open_replicas()

    with pytest.raises(InvalidParameterError, match="an unlucky number"):
        generator.generate([[1] * 13], TOKENS_20)


def a_request(ids, **fields):
    return EngineRequest(
        request_id="0",
        prompt_token_ids=tuple(ids),
        params=TOKENS_20,
        stop_token_ids=frozenset(),
        max_new_tokens=20,
        seed=0,
        **fields,
    )


def test_a_prefix_is_a_number_of_whole_blocks():
    prefixes = Prefixes()
    ids = list(range(3 * BLOCK))
    prefixes.record(keys_of(a_request(ids)), 1)

    assert prefixes.match(keys_of(a_request(ids[: 2 * BLOCK] + [0] * BLOCK))) == (1, 2)
    assert prefixes.match(keys_of(a_request(ids[: BLOCK - 1]))) == (None, 0)
    assert prefixes.match(keys_of(a_request([9, *ids]))) == (None, 0)
    prefixes.forget(1)
    assert prefixes.match(keys_of(a_request(ids))) == (None, 0)


@pytest.mark.parametrize(
    "fields",
    [{"cache_salt": "a"}, {"lora_request": LoRARequest("a", 1, "/a")}],
    ids=["salt", "adapter"],
)
def test_prompts_of_another_salt_or_adapter_have_no_prefix_in_common(fields):
    prefixes = Prefixes()
    ids = range(2 * BLOCK)
    prefixes.record(keys_of(a_request(ids)), 0)

    assert prefixes.match(keys_of(a_request(ids, **fields))) == (None, 0)


def test_a_long_prompt_has_a_bounded_number_of_prefixes():
    assert len(keys_of(a_request(range(100_000)))) == MAX_BLOCKS


# ------------------------------------------------------------------------------ devices


def test_each_replica_has_gpus_of_its_own():
    found = shares(2, ["0", "1", "2", "3", "4"], each=2, cores=[0, 1])

    assert [each.environment for each in found] == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    assert [each.cores for each in found] == [None, None]


def test_too_few_gpus_are_an_error_with_the_numbers():
    with pytest.raises(ConfigError, match=r"needs 4 GPUs, 2 for each .* there are 3"):
        shares(2, ["0", "1", "2"], each=2, cores=[0])


def test_each_replica_has_cores_of_its_own(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    found = shares(2, [], each=1, cores=[0, 1, 4, 5, 6])

    assert [each.cores for each in found] == [[0, 1], [4, 5]]
    assert [each.environment for each in found] == [{"OMP_NUM_THREADS": "2"}] * 2


def test_more_replicas_than_cores_share_them_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "unillm.process"):
        found = shares(3, [], each=1, cores=[0, 1])

    assert [each.cores for each in found] == [None] * 3
    assert "3 replicas share 2 cores" in caplog.text


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("", []), ("1,3", ["1", "3"]), ("-1", []), ("GPU-ab, 2", ["GPU-ab", "2"])],
)
def test_the_visible_gpus_are_those_of_the_variable(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert gpus() == expected


def test_without_the_variable_all_gpus_of_the_driver_are_visible(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = tmp_path / "gpus"
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (folder / name).mkdir(parents=True)

    assert gpus(folder) == ["0", "1"]
    assert gpus(tmp_path / "none") == []
