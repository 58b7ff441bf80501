# SPDX-License-Identifier: Apache-2.0

"""`ServerSettings`: the options of the server that do not concern the engine."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import attrs
from typing_extensions import override

from ..errors import ConfigError
from ..protocol.endpoints import AnswerSettings
from .shadow import ShadowSettings

MEBIBYTE = 2**20

_LOCAL_NAMES = frozenset({"localhost", "ip6-localhost"})


@attrs.frozen(kw_only=True)
class ServerSettings(AnswerSettings):
    """Options of the server.

    Raises:
        ConfigError: Two options contradict each other, or one is not safe.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    """Path of a Unix socket to listen on instead of an address."""
    root_path: str = ""
    """Path prefix that a proxy removes before it passes a request on."""
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    api_keys: tuple[str, ...] = attrs.field(default=(), repr=False)
    """Each gives access. Without keys, every client that reaches the server has it."""
    insecure: bool = False
    """Whether an address of the network may be served without a key."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the server; none by default."""
    served_model_name: tuple[str, ...] = ()
    """Names of the model; the first is in the answers. Empty: the name as given."""
    lora_modules: Mapping[str, str] = attrs.field(factory=dict)
    """Name of each adapter, which is a model of its own, and its directory."""
    sse_keep_alive_interval: float = 30.0
    """Seconds without an event after which a stream sends a comment; 0 for never."""
    max_body_bytes: int = 16 * MEBIBYTE
    body_timeout_s: float = 60.0
    """Seconds in which a client must have sent its body."""
    shutdown_timeout: float = 30.0
    """Seconds that running requests have to finish after SIGTERM."""
    restart_engine: bool = False
    """Whether an engine that died is made anew."""
    shadow: ShadowSettings | None = None
    """A second engine that repeats requests; `None` for none."""
    access_log: bool = True
    log_level: str = "info"

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.uds is None and not self.api_keys and not self.insecure:
            self._check_address()
        if any(not key for key in self.api_keys):
            raise ConfigError("An API key is empty. Give it a text, or leave it out.")
        if self.shadow is not None and not 0 < self.shadow.share <= 1:
            raise ConfigError(
                f"--shadow-share must be above 0 and at most 1, got "
                f"{self.shadow.share}."
            )
        if bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            raise ConfigError("TLS needs both --ssl-keyfile and --ssl-certfile.")

    def _check_address(self) -> None:
        if not is_local(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines, and there is "
                "no API key. Set --api-key or UNILLM_API_KEY, or add --insecure if "
                "every client that reaches this address may use the model."
            )


def is_local(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in _LOCAL_NAMES
