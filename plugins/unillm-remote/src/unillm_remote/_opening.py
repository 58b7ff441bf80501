# SPDX-License-Identifier: Apache-2.0

"""From a configuration to an engine: the address, the probe, the limits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from unillm.backend import EngineLimits, phase, read_model_text
from unillm.errors import ConfigError

from ._address import find_address
from ._engine import RemoteEngine
from ._probing import Probe

if TYPE_CHECKING:
    from unillm.backend import EngineConfig, ModelText

    from ._probing import Server

log = logging.getLogger("unillm.remote")

DEFAULT_MAX_NUM_SEQS = 100
"""Requests at the same time, each with a connection."""


def open_engine(config: EngineConfig) -> RemoteEngine:
    """Return an engine for the server that the options or the environment name.

    Raises:
        ConfigError: There is no address, or an option does not fit the server.
        BackendUnavailableError: No server of token ids answers.
        UnsupportedModelError: The server has another tokenizer.
    """
    address = find_address(config.backend_options)
    served_model = config.backend_options.get("served_model")
    if not isinstance(served_model, str | None):
        raise ConfigError(f"served_model must be a name, got {served_model!r}.")
    text = read_model_text(
        config.path, config.tokenizer, trust_remote_code=config.trust_remote_code
    )
    vocab_size = _vocab_size(text)
    with phase(f"asking the server {address.url}"):
        server = Probe(address, text, vocab_size=vocab_size).run(served_model)
    limits = EngineLimits(
        max_model_len=_max_model_len(config, server),
        max_num_seqs=config.max_num_seqs or DEFAULT_MAX_NUM_SEQS,
        vocab_size=vocab_size,
    )
    log.info(
        "%s %s at %s serves %r by %s; %s",
        server.endpoint.kind,
        server.version,
        address.url,
        server.served.model,
        server.endpoint.path,
        f"its tokenizer agrees ({server.checked_by})"
        if server.checked_by
        else "its tokenizer cannot be compared: it has no endpoint for that",
    )
    return RemoteEngine(address, server, limits=limits)


def _vocab_size(text: ModelText) -> int:
    """Return the rows of the model, or without its config those of its tokenizer."""
    config: Any = text.model_config
    for part in (config.get("text_config"), config):
        rows = part.get("vocab_size") if isinstance(part, dict) else None
        if isinstance(rows, int):
            return rows
    if text.tokenizer.vocab_size is None:
        raise ConfigError(
            "The size of the vocabulary is unknown: the model has no config.json, and "
            "the tokenizer no size. Put the model's config.json beside its tokenizer."
        )
    return text.tokenizer.vocab_size


def _max_model_len(config: EngineConfig, server: Server) -> int:
    asked, served = config.max_model_len, server.max_model_len
    if asked is None and served is None:
        raise ConfigError(
            "The server does not say how long a context it serves. Pass max_model_len."
        )
    if asked is not None and served is not None and asked > served:
        raise ConfigError(
            f"max_model_len={asked} is more than the {served} tokens that the server "
            "serves. Pass at most that, or leave it out."
        )
    return asked or served or 0
