# SPDX-License-Identifier: Apache-2.0

"""EOS tokens: the ids that end a completion, and the sources that name each one.

Checkpoints disagree with themselves: the tokenizer names one id, the generation config
several, and the end of a chat turn may be in neither. A completion that misses an EOS
token runs past the answer, so all sources count; their order decides only the report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..errors import EosNotFoundError, ModelLoadError, UnillmError
from .chat import as_conversation
from .sandbox import environment
from .tokenizer import Tokenizer

log = logging.getLogger("unillm")

TEMPLATES_TIMEOUT_S = 2.0
"""Limit for all templates of a tokenizer together, which are read while it loads."""

_ANSWER = "unillm looks for the token behind this sentence"


@attrs.frozen
class EosSource:
    """One EOS token."""

    token_id: int
    token: str | None
    """Its text in the vocabulary; `None` for an id without one."""
    origins: tuple[str, ...]
    """Every source that names it, such as ``"config.json"``."""


@attrs.frozen(kw_only=True)
class EosIds:
    """The ids that end a completion; at least one."""

    ids: frozenset[int]
    primary: int
    """The tokenizer's own id; a completion that ends on it has no `stop_reason`. The
    first of `sources` if the tokenizer names none."""
    sources: tuple[EosSource, ...]
    """Each id once, in the order of the sources."""
    ignored: tuple[EosSource, ...] = ()
    """Ids that a source names and the model cannot produce."""


def resolve_eos(
    tokenizer: Tokenizer,
    *,
    generation_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> EosIds:
    """Return every id that ends a completion, with the sources that name it.

    An id that the model has no row for (negative, or not below ``vocab_size`` of its
    config) goes to `EosIds.ignored`: the model cannot produce it, and engines refuse
    it. Without that number, the tokenizer's highest id is the limit.

    Args:
        tokenizer: Names its own EOS token, and has the chat template.
        generation_config: The model's ``generation_config.json``; `None` without one.
        config: The model's ``config.json``; `None` without one.

    Raises:
        EosNotFoundError: No source names an id. The error lists the files that were
            read.
        ModelLoadError: ``eos_token_id`` of a config is neither an id nor a list of ids.
    """
    configs = {
        name: content
        for name, content in (
            ("generation_config.json", generation_config),
            ("config.json", config),
        )
        if content is not None
    }
    # Dicts keep the order of insertion: that of the sources.
    found: dict[int, dict[str, None]] = {}
    for origin, token_id in _named_ids(tokenizer, configs):
        found.setdefault(token_id, {})[origin] = None
    size = _vocab_size(tokenizer, config or {})
    sources: list[EosSource] = []
    ignored: list[EosSource] = []
    for token_id, origins in found.items():
        known = token_id >= 0 and (size is None or token_id < size)
        source = EosSource(token_id, _token(tokenizer, token_id), tuple(origins))
        (sources if known else ignored).append(source)
    if not sources:
        raise _not_found([*configs, *tokenizer.files], ignored, size)
    ids = frozenset(source.token_id for source in sources)
    own = tokenizer.eos_token_id
    return EosIds(
        ids=ids,
        primary=own if own in ids and own is not None else sources[0].token_id,
        sources=tuple(sources),
        ignored=tuple(ignored),
    )


def _named_ids(
    tokenizer: Tokenizer, configs: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, int]]:
    """Yield each source with an id that it names."""
    for origin, content in configs.items():
        for token_id in _config_ids(content, origin):
            yield origin, token_id
    if tokenizer.eos_token_id is not None:
        yield "tokenizer", tokenizer.eos_token_id
    for token_id in _ends_of_turn(tokenizer):
        yield "chat template", token_id


def _config_ids(content: Mapping[str, Any], origin: str) -> list[int]:
    value = _text_value(content, "eos_token_id")
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise ModelLoadError(
                f"eos_token_id in {origin} must be an id or a list of ids, got "
                f"{value!r}. Correct the file."
            )
    return ids


def _text_value(content: Mapping[str, Any], key: str) -> Any:
    """Return a value of a config, or of the text model's config inside it.

    References:
        transformers, ``PreTrainedConfig.get_text_config``: the key ``text_config``.
    """
    value, inner = content.get(key), content.get("text_config")
    return inner.get(key) if value is None and isinstance(inner, Mapping) else value


def _ends_of_turn(tokenizer: Tokenizer) -> Iterator[int]:
    """Yield the special token that each chat template puts behind an answer."""
    conversation = as_conversation(
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": _ANSWER},
        ]
    )
    if tokenizer.chat_templates:  # importing it does not count
        environment()
    until = time.monotonic() + TEMPLATES_TIMEOUT_S
    for template in tokenizer.chat_templates.values():
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            text = tokenizer.render_within(
                left, conversation, template, add_generation_prompt=False
            )
        except UnillmError:
            continue  # the template takes other messages only
        before, answer, behind = text.rpartition(_ANSWER)
        # Some templates put a space or a line end first, as Llama 2's does.
        token, token_id = _special_at_start(tokenizer, behind.lstrip())
        # Some begin a next turn, whatever they are asked for.
        if answer and token and not _begins_turns(tokenizer, token, before):
            yield token_id
    if time.monotonic() >= until:
        log.warning(
            "The chat templates were not rendered in %g s, so a token behind an answer "
            "may be missing among the EOS tokens. Name all of them as eos_token_id in "
            "generation_config.json, or correct the template.",
            TEMPLATES_TIMEOUT_S,
        )


def _begins_turns(tokenizer: Tokenizer, token: str, before: str) -> bool:
    """Whether a token begins the conversation, or the answer behind *before*."""
    if before.rstrip().endswith(token):
        return True
    rest = before.lstrip()
    while first := _special_at_start(tokenizer, rest)[0]:
        if first == token:
            return True
        rest = rest[len(first) :].lstrip()
    return False


def _special_at_start(tokenizer: Tokenizer, text: str) -> tuple[str, int]:
    """Return the longest special token at the start of *text*; ``""`` for none."""
    tokens = [
        (token, token_id)
        for token_id in tokenizer.special_token_ids
        if (token := tokenizer.id_to_token(token_id)) and text.startswith(token)
    ]
    return max(tokens, key=lambda pair: len(pair[0]), default=("", -1))


def _token(tokenizer: Tokenizer, token_id: int) -> str | None:
    size = tokenizer.vocab_size
    known = token_id >= 0 and (size is None or token_id < size)
    return tokenizer.id_to_token(token_id) if known else None


def _vocab_size(tokenizer: Tokenizer, config: Mapping[str, Any]) -> int | None:
    """Return the rows of the model, which may be more or fewer than the tokens."""
    rows = _text_value(config, "vocab_size")
    return rows if isinstance(rows, int) else tokenizer.vocab_size


def _not_found(
    files: Sequence[str], ignored: Sequence[EosSource], size: int | None
) -> EosNotFoundError:
    named = ""
    if ignored:
        outside = ", ".join(
            f"{source.token_id} ({', '.join(source.origins)})" for source in ignored
        )
        rows = "" if size is None else f", whose ids are 0 to {size - 1}"
        named = f" Named, and outside the vocabulary of the model{rows}: {outside}."
    return EosNotFoundError(
        "No source names an end-of-sequence id that the model can produce, so nothing "
        "would end a completion but its length. Read: "
        f"{', '.join(files) or 'the tokenizer object alone'}.{named} "
        'Add "eos_token_id" to the model\'s generation_config.json, or give the '
        "tokenizer an eos_token.",
        files=tuple(files),
    )
