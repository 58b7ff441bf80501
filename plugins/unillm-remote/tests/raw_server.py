# SPDX-License-Identifier: Apache-2.0

"""A server of raw bytes, so that a test decides how an answer breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


def head(status=200, headers=EVENTS, *, chunked=True):
    """The beginning of a response."""
    lines = [f"HTTP/1.1 {status} Status"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append("transfer-encoding: chunked" if chunked else "connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunk(data):
    """A piece of a body; an empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**choice):
    """One event of a stream of completions."""
    body = {"choices": [{"index": 0, "text": "", **choice}]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def whole(*events):
    """A response that is complete."""
    return head() + b"".join(map(chunk, [*events, DONE, b""]))


def plain(status, body, headers=JSON):
    """A response of one piece."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, headers) + (text and chunk(text)) + chunk(b"")


class RawServer:
    """Answers ``/health``, and each other request by a coroutine of the test.

    Args:
        answer: Called with the writer, the body of the request as JSON and the number
            of the request, from 0. The connection is closed if it returns True.

    Attributes:
        url: Its address.
        count: Requests so far.
        health: What ``/health`` answers; `None` for nothing at all.
        left: Set when a client has closed its connection before the answer's end.
        most_open: Answers under way at the same time, at most.
    """

    def __init__(self, answer):
        self._answer = answer
        self.count = self._open = self.most_open = 0
        self.headers = []
        self.health = plain(200, {})
        self.left = threading.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the server and all its connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self):
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self):
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait([*tasks, asyncio.create_task(asyncio.sleep(0))])

    async def _connection(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError, EOFError):
            while await self._request(reader, writer):
                pass
        writer.transport.abort()

    async def _request(self, reader, writer):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        _, path, _ = lines[0].split()
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        self.headers.append(headers)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if path == "/health":
            if self.health is None:
                await self._stop.wait()
            writer.write(self.health)
            return True
        number, self.count = self.count, self.count + 1
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        watch = asyncio.create_task(self._watch(reader))
        try:
            close = await self._answer(writer, json.loads(body or b"{}"), number)
            await writer.drain()
        finally:
            self._open -= 1
            watch.cancel()
        return not close

    async def _watch(self, reader):
        """Tell that the client left; it sends nothing while it waits."""
        if await reader.read(1) == b"":
            self.left.set()
