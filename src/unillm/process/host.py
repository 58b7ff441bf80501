# SPDX-License-Identifier: Apache-2.0

"""The process of an engine: it hosts a backend of its own environment.

The main thread alone calls the engine, which was created on it. A second thread, the
`Attendant`, answers on the second socket while the engine computes, and ends the
process with all its children when the program is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from ..distributions import VERSION
from ..engines.backend import Sometimes
from ..errors import RequestError, UnillmError
from ..phases import listening
from ..plugins import PluginRegistry
from ..runtime.cores import watched_cores
from .attendant import Attendant, LogSender
from .channel import Channel, FrameTooLongError, ProtocolError, readable
from .child import wake_when_parent_ends
from .compiling import StructureCompiler
from .failures import as_failure
from .messages import (
    PROTOCOL,
    Answer,
    Ask,
    Bye,
    Close,
    Describe,
    Facts,
    Hello,
    List,
    Listing,
    Load,
    News,
    Output,
    ToHost,
    Turn,
)
from .values import (
    as_output,
    as_ready,
    capabilities_as_message,
    decode_config,
    decode_request,
)

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..engines.backend import Backend
    from ..engines.base import Engine, EngineRequest


COMPILING_S = 0.1
"""How long the program may wait for news while the engine only waits for structures."""


def main(work: int, control: int) -> None:
    """Serve the program until it closes the engine or ends.

    Args:
        work: Descriptor of the first socket.
        control: Descriptor of the second one.
    """
    wake_when_parent_ends()
    os.dup2(2, 1)  # engines print on standard output
    os.environ.pop("PYTHONSAFEPATH", None)  # for this process alone
    for number in (work, control):
        os.set_inheritable(number, False)
    program = Channel.to_program(socket.socket(fileno=work))
    attendant = Attendant(Channel.to_program(socket.socket(fileno=control)))
    attendant.start()
    hello = Hello(protocol=PROTOCOL, unillm=VERSION, python=platform.python_version())
    status = 0
    try:
        program.send(hello)
        _serve(program, attendant)
    except Exception as error:  # noqa: BLE001 - the program raises it
        if _is_gone(program):
            attendant.end()
        with contextlib.suppress(OSError):
            traceback.print_exc()
        with contextlib.suppress(OSError):
            program.send(as_failure(error))
        status = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Threads of an engine cannot keep the process.
    os._exit(status)


def _is_gone(program: Channel[ToHost]) -> bool:
    try:
        while program.poll():
            program.receive()  # its last messages come before its end
    except EOFError:
        return True
    except ProtocolError:
        pass
    return False


def _serve(program: Channel[ToHost], attendant: Attendant) -> None:
    """Answer questions, and then host an engine if one is asked for."""
    registry = PluginRegistry()
    while True:
        message = program.receive()
        if isinstance(message, Close):
            program.send(Bye())
            return
        if isinstance(message, Load):
            _host(message, registry, program, attendant)
            return
        try:
            program.send(_answer(message, registry))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            program.send(as_failure(error))


def _answer(message: Any, registry: PluginRegistry) -> Any:
    if isinstance(message, List):
        return Listing([_listed(registry, name) for name in registry.names()])
    if isinstance(message, Describe):
        return _facts(registry, message.backend)
    assert isinstance(message, Ask), message
    backend = registry.load(message.backend)
    config = decode_config(message.config)
    return Answer(_METHODS[message.method](registry, backend, config))


def _examined(_: PluginRegistry, backend: Backend, config: EngineConfig) -> Any:
    return [attrs.asdict(finding) for finding in backend.examine(config)]


_METHODS: dict[str, Callable[[PluginRegistry, Backend, EngineConfig], Any]] = {
    "refusal": lambda registry, backend, config: registry.refusal(backend, config),
    "remark": lambda _, backend, config: backend.remark(config),
    "examine": _examined,
}
"""Questions about a configuration: name to the answer."""


def _listed(registry: PluginRegistry, name: str) -> Facts:
    """Return a backend; one that cannot be loaded is not available."""
    try:
        return _facts(registry, name)
    except UnillmError as error:
        return Facts(
            name=name,
            description="",
            distribution=registry.distribution(name),
            auto_rank=None,
            option_names=[],
            engine_options=[],
            option_reasons={},
            waivers={},
            sometimes=[],
            capabilities={},
            available=False,
            reason=str(error),
            remedy=None,
        )


def _facts(registry: PluginRegistry, name: str) -> Facts:
    backend = registry.load(name)
    availability = registry.availability(backend)
    names = backend.option_names
    waivers = dict(backend.waivers) if availability.available else {}
    return Facts(
        name=backend.name,
        description=backend.description,
        distribution=registry.distribution(name),
        auto_rank=backend.auto_rank,
        option_names=None if names is None else sorted(names),
        engine_options=sorted(backend.engine_options),
        option_reasons=dict(backend.option_reasons),
        waivers=waivers,
        sometimes=[n for n, reason in waivers.items() if isinstance(reason, Sometimes)],
        capabilities=capabilities_as_message(backend.capabilities),
        available=availability.available,
        reason=availability.reason,
        remedy=availability.remedy,
        reads_weights=backend.reads_weights,
    )


def _host(
    message: Load,
    registry: PluginRegistry,
    program: Channel[ToHost],
    attendant: Attendant,
) -> None:
    """Load an engine and step it until the program closes it."""
    if message.cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, message.cores)
    unillm_log = logging.getLogger("unillm")
    unillm_log.setLevel(message.log_level)
    unillm_log.addHandler(LogSender(attendant))
    unillm_log.propagate = False
    config = decode_config(message.config)
    backend = registry.load(message.backend)
    with attendant.beating(), listening(attendant.pass_on):
        engine = backend.create_engine(config)
    attendant.engine = engine
    try:
        capabilities = backend.capabilities.refined(engine.capabilities)
        program.send(as_ready(engine.limits, engine.capabilities))
        compiler = StructureCompiler(config, engine.limits, capabilities)
        _Hosting(engine, compiler, program).run()
    finally:
        attendant.engine = None
        engine.close()
    program.send(Bye())


class _Hosting:
    """The loop between the program and an engine."""

    def __init__(
        self, engine: Engine, compiler: StructureCompiler, program: Channel[ToHost]
    ) -> None:
        self._engine = engine
        self._compiler = compiler
        self._program = program
        self._turn = 0
        self._sent = 0
        self._allowed = 0

    def run(self) -> None:
        """Step while there is work and the program keeps up, until it says `Close`."""
        with watched_cores() as look:
            while self._turn_once():
                look()

    def _turn_once(self) -> bool:
        """Take what the program sent, and step once; false after `Close`."""
        if not self._may_step() and not self._program.pending():
            timeout_s = COMPILING_S if self._compiler.is_busy() else None
            if not readable([self._program, self._compiler], timeout_s):
                self._program.send(News(self._turn, self._sent, []))
        while self._program.poll():
            message = self._program.receive()
            if isinstance(message, Close):
                return False
            assert isinstance(message, Turn), message
            self._take(message)
        for request, found in self._compiler.compiled():
            self._add_compiled(request, found)
        if self._may_step():
            # Also without outputs: the program has new requests, aborts and deadlines.
            self._send(map(as_output, self._engine.step()))
        return True

    def _may_step(self) -> bool:
        return self._sent < self._allowed and self._engine.has_unfinished()

    def _take(self, turn: Turn) -> None:
        self._turn = turn.turn
        self._allowed = turn.steps
        if turn.aborts:
            self._compiler.drop(turn.aborts)
            self._engine.abort(turn.aborts)
        for raw in turn.requests:
            request = decode_request(raw)
            if request.params.structured_outputs is None:
                self._add(request)
            else:
                self._compiler.submit(request)

    def _add(self, request: EngineRequest) -> None:
        try:
            self._engine.add_request(request)
        except RequestError as error:
            self._refuse(request, error)

    def _add_compiled(
        self, request: EngineRequest, found: EngineRequest | RequestError
    ) -> None:
        if isinstance(found, RequestError):
            self._refuse(request, found)
        else:
            self._add(found)

    def _refuse(self, request: EngineRequest, error: RequestError) -> None:
        refused = Output(request.request_id, [], "error", refusal=as_failure(error))
        self._send([refused])

    def _send(self, outputs: Iterable[Output]) -> None:
        """Send outputs; split a message that is too long."""
        sent = list(outputs)
        try:
            self._program.send(News(self._turn, self._sent + 1, sent))
            self._sent += 1
        except FrameTooLongError as error:
            if len(sent) > 1:
                for each in sent:
                    self._send([each])
                return
            [output] = sent
            if output.finish_reason is None:
                self._engine.abort([output.request_id])
            reason = (
                f"its output is too long to be sent from the engine's process: {error}"
            )
            self._send([Output(output.request_id, [], "error", error=reason)])
