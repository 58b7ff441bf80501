# SPDX-License-Identifier: Apache-2.0

"""`RemoteEngine`: the contract, over requests to a server.

Requests wait here, by priority and arrival, until one of the `max_num_seqs` others has
ended: the server may serve other clients too, and its queue is not ours to order.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from unillm.backend import Engine, EngineLimits, WaitingQueue
from unillm.errors import EngineDeadError

from ._answers import Answer
from ._transport import Death, Exchange, News, Transport, as_json

if TYPE_CHECKING:
    from unillm.backend import EngineOutput, EngineRequest

    from ._address import Address
    from ._probing import Server

WAIT_S = 1.0
"""A step returns without news after this time, so that it never counts as hanging: a
request may wait long in the server's queue, and the transport watches the server."""


class RemoteEngine(Engine):
    """The requests of one generator at one server.

    Args:
        address: Of the server.
        server: That answered there.
        limits: Of this engine.
    """

    def __init__(
        self, address: Address, server: Server, *, limits: EngineLimits
    ) -> None:
        self.limits = limits
        self.capabilities = server.endpoint.capabilities
        self._server = server
        self._address = address
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._waiting = WaitingQueue()
        self._calls: dict[str, Exchange] = {}  # of waiting requests, ready to go
        self._running: dict[str, Exchange] = {}
        self._dead: str | None = None
        self._transport = Transport(
            address,
            health_path=server.endpoint.health_path,
            connections=limits.max_num_seqs,
            report=self._news.put,
        )

    @override
    def add_request(self, request: EngineRequest) -> None:
        endpoint = self._server.endpoint
        call = endpoint.call(request, self._server.served)
        self._calls[request.request_id] = Exchange(
            request_id=request.request_id,
            path=endpoint.path,
            body=as_json(call.body),
            streamed=call.streamed,
            reader=endpoint.reader(request),
            answer=Answer(request, vocab_size=self.limits.vocab_size),
        )
        self._waiting.push(request)
        self._send()

    def _send(self) -> None:
        """Send the next requests as long as there is room."""
        while self._waiting and len(self._running) < self.limits.max_num_seqs:
            request_id = self._waiting.pop().request_id
            exchange = self._calls.pop(request_id)
            self._running[request_id] = exchange
            self._transport.begin(exchange)

    @override
    def step(self) -> list[EngineOutput]:
        if self._dead is not None:
            raise self._death()
        if not self.has_unfinished():
            return []
        outputs: list[EngineOutput] = []
        while True:
            try:  # wait for the first news alone
                news = self._news.get(block=not outputs, timeout=WAIT_S)
            except queue.Empty:
                break
            if isinstance(news, Death):
                self._dead = news.reason
                raise self._death()
            exchange, output = news
            if self._running.get(exchange.request_id) is not exchange:
                continue  # aborted
            outputs.append(output)
            if output.finish_reason is not None:
                del self._running[exchange.request_id]
        self._send()
        return outputs

    def _death(self) -> EngineDeadError:
        return EngineDeadError(
            f"The server at {self._address.url} is gone: {self._dead}. Start it again "
            "and create a new Generator."
        )

    @override
    def abort(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if self._waiting.remove(request_id) is not None:
                del self._calls[request_id]
            elif (exchange := self._running.pop(request_id, None)) is not None:
                self._transport.cancel(exchange)
        self._send()

    @override
    def has_unfinished(self) -> bool:
        return bool(self._running or self._waiting)

    @override
    def stats(self) -> Mapping[str, Any]:
        server = self._server
        return {
            "url": self._address.url,
            "server": server.endpoint.kind,
            "server_version": server.version,
            "path": server.endpoint.path,
            "served_model": server.served.model,
            "tokenizer_checked_by": server.checked_by,
            "waiting": len(self._waiting),
            "running": len(self._running),
            "retries": self._transport.num_retries,
        }

    @override
    def kill(self) -> None:
        self._transport.close()

    @override
    def close(self) -> None:
        self._waiting = WaitingQueue()
        self._calls.clear()
        self._running.clear()
        self._transport.close()
