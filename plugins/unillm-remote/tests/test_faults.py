# SPDX-License-Identifier: Apache-2.0

"""Servers and proxies that break HTTP, an answer or the contract, each in one way."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from driving import KEY, driven
from raw_server import DONE, JSON, RawServer, chunk, event, head, plain, whole
from unillm_remote import _transport

from unillm.errors import EngineDeadError
from unillm.testing.asking import bundled_asker

GOOD = whole(
    event(token_ids=[18], prompt_token_ids=list(bundled_asker()().prompt_token_ids)),
    event(token_ids=[220, 19]),
    event(token_ids=[506], finish_reason="stop"),
)


@pytest.fixture
def ask():
    return bundled_asker()


@pytest.fixture
def serve():
    """Start a raw server and an engine for it."""
    opened = []

    def serve(answer, **options):
        server = RawServer(answer)
        engine = driven(server.url, **options)
        opened.append((server, engine))
        return server, engine

    yield serve
    for server, engine in opened:
        engine.dispose()
        server.close()


def answering(*answers, close=False):
    """An answer for each request in turn; the last one for all others."""

    async def answer(writer, _body, number):
        writer.write(answers[min(number, len(answers) - 1)])
        return close

    return answer


def dropping(times, *, after=b""):
    """Drop the first connections after some bytes, and then answer well."""

    async def answer(writer, _body, number):
        if number < times:
            writer.write(after)
            await writer.drain()
            return True
        writer.write(GOOD)
        return False

    return answer


def error_of(result):
    assert result.finish_reasons == ["error"]
    assert result.outputs[-1].error
    return result.outputs[-1].error


def test_a_whole_answer_is_read(serve, ask):
    server, engine = serve(answering(GOOD))

    [result] = engine.run(ask())

    assert (result.token_ids, result.finish_reason) == ([18, 220, 19, 506], "stop")
    assert result.stop_token_id == 506
    assert server.count == 1


# -------------------------------------------------------------------------- connections


@pytest.mark.parametrize(
    "after",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-ty", head(), head() + chunk(b": keep-alive\n")],
    ids=["before the status line", "in the headers", "after them", "after a comment"],
)
def test_a_request_without_any_token_is_sent_again(serve, ask, after):
    server, engine = serve(dropping(2, after=after))

    [result] = engine.run(ask())

    assert result.token_ids == [18, 220, 19, 506]
    assert server.count == 3
    assert engine.engine.stats()["retries"] == 2


def test_a_request_that_is_never_answered_fails_alone(serve, ask):
    async def answer(writer, body, _number):
        bad = body["max_tokens"] == 7
        writer.write(b"" if bad else GOOD)
        return bad

    server, engine = serve(answer)

    bad, good = engine.run(ask(max_tokens=7), ask())

    assert "did not answer" in error_of(bad)
    assert good.finish_reason == "stop"
    assert server.count == 1 + _transport.TRIES


@pytest.mark.parametrize(
    "cut", [b"", b'data: {"choi'], ids=["between events", "within an event"]
)
def test_a_request_with_tokens_is_not_sent_again(serve, ask, cut):
    sent = head() + chunk(event(token_ids=[18, 220])) + (cut and chunk(cut))
    server, engine = serve(dropping(1, after=sent))

    [result] = engine.run(ask())

    assert "broke after 2 new tokens" in error_of(result)
    assert result.token_ids == [18, 220]
    assert server.count == 1


def test_an_answer_that_just_ends_is_an_error(serve, ask):
    _, engine = serve(answering(head() + chunk(event(token_ids=[18])) + chunk(b"")))

    [result] = engine.run(ask())

    assert "broke off after 1 of at most 64 new tokens" in error_of(result)


def test_an_answer_whose_counts_are_missing_is_whole(serve, ask):
    sent = head() + chunk(event(token_ids=[18, 506], finish_reason="stop"))
    server, engine = serve(dropping(1, after=sent))

    [result] = engine.run(ask())

    assert (result.token_ids, result.finish_reason) == ([18, 506], "stop")
    assert server.count == 1


def test_bytes_may_arrive_one_by_one(serve, ask):
    # Text of several bytes a character, and characters that end lines elsewhere.
    events = (
        b": a comment\r\n\r\n"
        + event(token_ids=[18], text="über 🙂\u2028\u0085")
        + b"event: x\rid: 7\r"
        + event(token_ids=[506], finish_reason="stop").replace(b"\n", b"\r\n")
        + DONE
    )

    async def answer(writer, _body, _number):
        writer.write(head())
        for at in range(len(events)):
            writer.write(chunk(events[at : at + 1]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(chunk(b""))
        return False

    _, engine = serve(answer)

    [result] = engine.run(ask())

    assert (result.token_ids, result.finish_reason) == ([18, 506], "stop")


def test_connections_are_used_again(serve, ask):
    ports = set()

    async def answer(writer, _body, _number):
        ports.add(writer.get_extra_info("peername"))
        writer.write(GOOD)
        return False

    server, engine = serve(answer, max_num_seqs=1)

    engine.run(*(ask() for _ in range(5)))

    assert (server.count, len(ports)) == (5, 1)


def test_as_many_requests_run_as_the_engine_has_rows(serve, ask):
    full = asyncio.Event()

    async def answer(writer, _body, number):
        if number == 23:
            full.set()
        writer.write(head() + chunk(event(token_ids=[18])))
        await writer.drain()
        await full.wait()
        writer.write(chunk(event(token_ids=[506], finish_reason="stop")))
        writer.write(chunk(DONE) + chunk(b""))
        return False

    server, engine = serve(answer, max_num_seqs=24)

    results = engine.run(*(ask() for _ in range(60)))

    assert {result.finish_reason for result in results} == {"stop"}
    assert server.most_open == 24


def test_an_abort_closes_the_connection(serve, ask):
    async def answer(writer, _body, _number):
        writer.write(head() + chunk(event(token_ids=[18])))
        await writer.drain()
        await asyncio.sleep(60)

    server, engine = serve(answer)
    request = ask()
    engine.add(request)
    engine.step_until_begun(request)

    engine.abort(request.request_id)

    assert not engine.unfinished
    assert server.left.wait(10)


def test_a_stop_id_ends_the_stream_of_a_server_that_goes_on(serve, ask):
    async def answer(writer, _body, _number):
        writer.write(head() + chunk(event(token_ids=[18, 220, 506, 5, 6])))
        await writer.drain()
        await asyncio.sleep(60)

    server, engine = serve(answer)

    [result] = engine.run(ask())

    assert (result.token_ids, result.finish_reason) == ([18, 220, 506], "stop")
    assert server.left.wait(10)


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, {"error": {"message": "too long", "code": 400}}, "too long"),
        (400, {"object": "error", "message": "flat", "code": 400}, "flat"),
        (401, {"error": "Unauthorized"}, "Unauthorized. Check the key"),
        (403, {"detail": f"no rights for {KEY}"}, "no rights for ***"),
        (404, {"error": {"message": "no such model"}}, "no such model"),
        (422, {"detail": [{"loc": ["n"]}]}, "loc"),
        (500, b"Internal Server Error", "500 Internal Server Error"),
        (302, b"", "302"),
    ],
)
def test_a_refused_request_fails_alone_and_once(serve, ask, status, body, says):
    server, engine = serve(answering(plain(status, body), GOOD), max_num_seqs=1)

    bad, good = engine.run(ask(), ask())

    assert says in error_of(bad)
    assert KEY not in error_of(bad)
    assert good.finish_reason == "stop"
    assert server.count == 2


def test_a_page_of_a_proxy_is_named(serve, ask):
    page = b"<!doctype html><title>Sign in</title>"
    _, engine = serve(answering(plain(200, page, {"content-type": "text/html"})))

    [result] = engine.run(ask())

    assert "HTML, as a proxy sends for a login" in error_of(result)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "CUDA error", "code": 500}},
        {"object": "error", "message": "CUDA error"},
        {"error": "CUDA error"},
    ],
    ids=["nested", "flat", "text"],
)
def test_an_error_after_200_fails_the_request(serve, ask, body):
    said = b"data: " + json.dumps(body).encode() + b"\n\n"
    server, engine = serve(answering(whole(event(token_ids=[18]), said)))

    [result] = engine.run(ask())

    assert error_of(result) == "the server failed after 1 new tokens: CUDA error"
    assert server.count == 1


@pytest.mark.parametrize("after", ["0", "0.01", "Wed, 21 Oct 2026 07:28:00 GMT", "-3"])
def test_a_full_server_is_asked_again(serve, ask, monkeypatch, after):
    monkeypatch.setattr("unillm_remote._failures.PAUSE_S", 0.01)
    full = plain(429, {"error": {"message": "full"}}, {**JSON, "retry-after": after})
    server, engine = serve(answering(full, full, full, full, GOOD))

    [result] = engine.run(ask())

    assert result.finish_reason == "stop"
    assert server.count == 5


def test_a_server_that_stays_full_is_given_up(serve, ask, monkeypatch):
    monkeypatch.setattr(_transport, "FULL_PATIENCE_S", 0.1)
    _, engine = serve(
        answering(plain(429, {"error": {"message": "quota"}}, {"retry-after": "1"}))
    )

    [result] = engine.run(ask())

    assert "429 Too Many Requests: quota" in error_of(result)


def test_a_gateway_without_its_server_is_asked_again(serve, ask, monkeypatch):
    monkeypatch.setattr("unillm_remote._failures.PAUSE_S", 0.01)
    server, engine = serve(answering(plain(502, b""), plain(503, b""), GOOD))

    [result] = engine.run(ask())

    assert result.finish_reason == "stop"
    assert server.count == 3


# ------------------------------------------------------------------------ wrong answers


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([event(text="3 4")], "text without token ids"),
        ([event(token_ids=[512])], "512 is not an id of a vocabulary of 512"),
        ([event(token_ids=[-1])], "-1 is not an id"),
        ([event(token_ids=["18"])], "'18' is not an id"),
        ([event(token_ids=[True])], "True is not an id"),
        ([event(token_ids={"a": 1})], "ids must be a list"),
        ([event(token_ids=[5] * 65)], "65 new ids, and 64 were asked for"),
        ([event(token_ids=[5], prompt_token_ids=[1, 2])], "another prompt"),
        (
            [event(token_ids=[5], finish_reason="stop")],
            "stopped at token 5, at which this request does not end",
        ),
        ([event(finish_reason="stop")], "stopped at token None"),
        (
            [event(token_ids=[5], finish_reason="length")],
            "ended after 1 of 64 new tokens for a limit of its own",
        ),
        ([event(finish_reason="abort")], "'abort'"),
        (
            [event(token_ids=[506], finish_reason="stop"), event(token_ids=[5])],
            "follow",
        ),
        ([b"data: {}\n\n"], "choices must be a list"),
        ([b'data: {"choices": [7]}\n\n'], "a choice must be an object"),
        ([b"data: [1, 2]\n\n"], "an event must be an object"),
        ([b"data: {oops\n\n"], "cannot be read"),
        ([b"data: \xff\xfe\n\n"], "cannot be read"),
        ([b"data: NaN\n\n"], "an event must be an object"),
    ],
)
def test_a_wrong_answer_fails_its_request_with_the_reason(serve, ask, events, says):
    _, engine = serve(answering(whole(*events), GOOD), max_num_seqs=1)

    bad, good = engine.run(ask(), ask())

    assert says in error_of(bad)
    assert good.finish_reason == "stop"


def test_tokens_before_min_tokens_end_nothing(serve, ask):
    _, engine = serve(answering(GOOD))

    [result] = engine.run(ask(min_tokens=9))

    assert "stopped after 3 new tokens, and min_tokens is 9" in error_of(result)


def test_an_endless_event_is_not_kept(serve, ask, monkeypatch):
    monkeypatch.setattr(_transport, "MAX_ANSWER_BYTES", 100_000)

    async def answer(writer, _body, _number):
        writer.write(head() + chunk(b"data: "))
        while True:
            writer.write(chunk(b"x" * 10_000))
            await writer.drain()

    _, engine = serve(answer)

    [result] = engine.run(ask())

    assert "more than 100000 bytes" in error_of(result)


# -------------------------------------------------------------------------------- death


def test_the_death_of_a_server_raises(serve, ask):
    async def answer(writer, _body, _number):
        writer.write(head() + chunk(event(token_ids=[18])))
        await writer.drain()
        await asyncio.sleep(60)

    server, engine = serve(answer)
    request = ask()
    engine.add(request, *(ask() for _ in range(6)))
    engine.step_until_begun(request)

    server.close()

    with pytest.raises(EngineDeadError, match="is gone"):
        engine.finish()
    with pytest.raises(EngineDeadError, match="is gone"):
        engine.step()


def test_a_server_that_hangs_counts_as_dead(serve, ask, monkeypatch):
    monkeypatch.setattr(_transport, "SILENCE_S", 0.1)
    monkeypatch.setattr(_transport, "HEALTH_TIMEOUT_S", 0.2)

    async def answer(_writer, _body, _number):
        await asyncio.sleep(60)

    server, engine = serve(answer)
    server.health = None
    engine.add(ask())

    with pytest.raises(EngineDeadError, match="/health fails: ReadTimeout"):
        engine.finish()


def test_a_server_without_its_engine_counts_as_dead(serve, ask):
    dead = plain(503, {"error": {"message": "The engine died."}})
    server, engine = serve(answering(dead))
    server.health = dead
    engine.add(ask())

    with pytest.raises(EngineDeadError, match="The engine died"):
        engine.finish()


def test_the_end_of_the_loop_raises(serve, ask, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no client today")

    monkeypatch.setattr(_transport.httpx, "AsyncClient", fail)
    _, engine = serve(answering(GOOD))
    engine.add(ask())

    with pytest.raises(EngineDeadError, match="no client today"):
        engine.finish()


def test_a_slow_server_lives(serve, ask, monkeypatch):
    monkeypatch.setattr(_transport, "SILENCE_S", 0.05)
    monkeypatch.setattr("unillm_remote._engine.WAIT_S", 0.05)

    async def answer(writer, _body, _number):
        await asyncio.sleep(0.5)
        writer.write(GOOD)
        return False

    _, engine = serve(answer)
    engine.add(ask())

    assert engine.step() == []
    engine.finish()
    assert engine.outputs[-1].finish_reason == "stop"


# --------------------------------------------------------------------------------- keys


def test_the_key_is_sent_and_is_nowhere_else(serve, ask, caplog):
    caplog.set_level(logging.DEBUG)
    said = plain(401, {"error": {"message": f"{KEY} is not a key"}})
    server, engine = serve(answering(said, GOOD), max_num_seqs=1)

    results = engine.run(ask(), ask())

    assert server.headers[0]["authorization"] == f"bearer {KEY}"
    shown = [
        repr(engine.engine),
        repr(vars(engine.engine)),
        repr(engine.engine.stats()),
        *(str(each.outputs) for each in results),
        *(record.getMessage() for record in caplog.records),
    ]
    assert not [text for text in shown if KEY in text]
