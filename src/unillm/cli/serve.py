# SPDX-License-Identifier: Apache-2.0

"""``unillm serve``: an HTTP server over one model, compatible with OpenAI's API."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import unillm

from ..distributions import install
from ..errors import ConfigError
from . import options, serving_options
from .commands import command
from .options import Option

if TYPE_CHECKING:
    from ..server.settings import ServerSettings
    from ..server.shadow import ShadowSettings

KEY_VARIABLE = "UNILLM_API_KEY"
"""Environment variable with a key of the server."""

_server = functools.partial(Option, panel="Server")
_security = functools.partial(Option, panel="Security")
_load = functools.partial(Option, panel="Load and faults")
_shadowing = functools.partial(Option, panel="A second engine")


class Address(TypedDict, total=False):
    """Options of `ServerSettings` for where the server listens."""

    host: Annotated[
        str, _server("Address to listen on.", "ADDRESS", default="127.0.0.1")
    ]
    port: Annotated[int, _server("Port; 0 takes a free one.", "PORT", default=8000)]
    uds: Annotated[str, _server("Unix socket to listen on instead.", "PATH")]
    root_path: Annotated[
        str, _server("Path prefix that a proxy removes from requests.", "PATH")
    ]
    ssl_keyfile: Annotated[str, _server("Key of the TLS certificate.", "PATH")]
    ssl_certfile: Annotated[str, _server("TLS certificate.", "PATH")]
    ssl_ca_certs: Annotated[
        str, _server("Certificates that a client's certificate must come from.", "PATH")
    ]
    log_level: Annotated[
        str,
        _server(
            "Detail of the server's log: critical, error, warning, info or debug.",
            "LEVEL",
            flag="--uvicorn-log-level",
            default="info",
        ),
    ]
    disable_access_log: Annotated[
        bool,
        _server("Log no line for each request.", flag="--disable-uvicorn-access-log"),
    ]


class Security(TypedDict, total=False):
    """Options of `ServerSettings` for who may use the server."""

    api_keys: Annotated[
        list[str],
        _security(
            f"Key that clients must send; may be repeated. {KEY_VARIABLE} of the "
            "environment adds one, which does not appear in the list of processes.",
            "KEY",
            flag="--api-key",
        ),
    ]
    insecure: Annotated[
        bool,
        _security("Serve an address that others reach without a key."),
    ]
    allowed_origins: Annotated[
        list[str],
        _security(
            "Origin whose web pages may call the server; may be repeated.", "ORIGIN"
        ),
    ]
    trust_request_chat_template: Annotated[
        bool, _security("Let requests bring their chat template, which is a program.")
    ]
    max_body_bytes: Annotated[
        int, _security("Largest body of a request. Default: 16 MiB.", "BYTES")
    ]


class Load(TypedDict, total=False):
    """Options for load and faults, of `ServerSettings` and of the generator."""

    max_queued_requests: Annotated[
        int,
        _load(
            "Requests that may wait for their first token; more get status 429.",
            "COUNT",
            flag="--max-num-queued-reqs",
        ),
    ]
    max_queued_tokens: Annotated[
        int,
        _load(
            "Prompt tokens that may wait, over all requests.",
            "COUNT",
            flag="--max-num-queued-tokens",
        ),
    ]
    shutdown_timeout: Annotated[
        float,
        _load(
            "Seconds that running requests have to finish after SIGTERM. Default: 30.",
            "SECONDS",
        ),
    ]
    restart_engine: Annotated[bool, _load("Make the engine anew when it has died.")]


class Shadowing(TypedDict, total=False):
    """Options of the second engine."""

    shadow: Annotated[
        str,
        _shadowing(
            "Backend of a second engine, which repeats a share of the greedy requests; "
            "/shadow says where its answers differ.",
            "NAME",
        ),
    ]
    shadow_share: Annotated[
        float, _shadowing("Share of the greedy requests. Default: 0.05.", "SHARE")
    ]
    shadow_python: Annotated[
        str,
        _shadowing(
            "Interpreter whose environment has unillm and the second engine.", "PATH"
        ),
    ]
    shadow_option: Annotated[
        Mapping[str, Any],
        _shadowing(
            "Option of the generator for the second engine alone; may be repeated.",
            "KEY=VALUE",
            read=options.parse_key_values,
        ),
    ]


@command
def serve(
    model: options.ModelArgument = "unillm/tiny",
    *,
    address: Address,
    security: Security,
    answers: serving_options.Answers,
    load: Load,
    shadowing: Shadowing,
    clustered: serving_options.Clustered,
    engine: options.Engine,
) -> None:
    """Serve a model over HTTP, compatible with OpenAI's API.

    SIGTERM and Ctrl-C let running requests finish.
    """
    try:
        from ..server import run, settings
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"unillm serve needs {error.name}. Install it: {install('server')}"
        ) from error
    given: dict[str, Any] = {**address, **security, **answers, **load}
    queue = {name: given.pop(name) for name in _QUEUE if name in given}
    keys = (*given.pop("api_keys", ()), *_keys_of_environment())
    given["access_log"] = not given.pop("disable_access_log", False)
    if answers.get("lora_modules"):
        engine.setdefault("enable_lora", True)
    if shadowing:
        given["shadow"] = _shadow(shadowing, engine)
    for name in ("allowed_origins", "served_model_name"):
        given[name] = tuple(given.get(name, ()))
    of_server = settings.ServerSettings(api_keys=keys, **given)
    of_engine = {**engine, **queue}
    if clustered:
        _serve_on_ray(model, of_server, of_engine, clustered)
        return
    run.serve(functools.partial(_generator, model, **of_engine), model, of_server)


def _generator(model: str, **options: Any) -> unillm.Generator:
    """Return a generator with the options that its backend sets for servers."""
    from ..generator import open_generator
    from ..resolve import resolve

    resolved = resolve(model, **options)
    given = resolved.config.backend_options
    own = {**resolved.backend.server_options, **given}
    if own != given:
        resolved = resolved.with_options(backend_options=own)
    return open_generator(resolved)


_QUEUE = ("max_queued_requests", "max_queued_tokens")
"""Options of the generator that stand beside those of the server."""


def _serve_on_ray(
    model: str,
    settings: ServerSettings,
    engine: Mapping[str, Any],
    clustered: serving_options.Clustered,
) -> None:
    if settings.uds is not None:
        raise ConfigError(
            "Ray Serve does not listen on a Unix socket. Leave out --uds."
        )
    serving_options.import_ray(clustered).serve_until_signal(
        model,
        settings,
        address=clustered["ray"],
        replicas=clustered.get("replicas", (1, 1)),
        resources=clustered.get("resources"),
        options=engine,
    )


def _shadow(given: Shadowing, engine: Mapping[str, Any]) -> ShadowSettings:
    """Return the second engine: the first one's options, and its own before them."""
    from ..server.shadow import ShadowSettings

    if "shadow" not in given:
        raise ConfigError("The options of a second engine need --shadow NAME.")
    of_first = {
        name: engine[name]
        for name in engine
        if name not in ("python", "backend_options")
    }
    return ShadowSettings(
        backend=given["shadow"],
        share=given.get("shadow_share", 0.05),
        python=_interpreter(given.get("shadow_python")),
        options={**of_first, **given.get("shadow_option", {})},
    )


def _interpreter(given: str | None) -> str:
    from ..process.environments import find_python

    return sys.executable if given is None else find_python(given)


def _keys_of_environment() -> list[str]:
    # A file's last line ends with a newline, which no header can send.
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return [key] if key else []
