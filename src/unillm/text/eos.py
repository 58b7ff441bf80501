# SPDX-License-Identifier: Apache-2.0

"""EOS tokens: the ids that end a completion, and the sources that name each one.

Checkpoints disagree with themselves: the tokenizer names one id, the generation config
several, and the end of a chat turn may be in neither. A completion that misses an EOS
token runs past the answer, so all sources count; their order decides only the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..errors import EosNotFoundError, ModelLoadError, UnillmError
from .tokenizer import Tokenizer

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

    An id outside the vocabulary (negative, or too high for both the tokenizer and
    ``vocab_size`` of the config) goes to `EosIds.ignored`: the model cannot produce it,
    and engines refuse it.

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
        token = tokenizer.id_to_token(token_id) if known else None
        source = EosSource(token_id, token, tuple(origins))
        (sources if known else ignored).append(source)
    if not sources:
        raise _not_found([*configs, *tokenizer.files], ignored)
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
    end_of_turn = _end_of_turn(tokenizer)
    if end_of_turn is not None:
        yield "chat template", end_of_turn


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


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    """Return the id of the special token that a chat template puts behind an answer."""
    if tokenizer.chat_template is None:
        return None
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": _ANSWER},
    ]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    except UnillmError:
        return None  # the template takes other messages only
    # Some templates put a space or a line end first, as Llama 2's does.
    behind = text.rpartition(_ANSWER)[2].lstrip()
    tokens = [
        (token, token_id)
        for token_id in tokenizer.special_token_ids
        if (token := tokenizer.id_to_token(token_id)) and behind.startswith(token)
    ]
    return max(tokens, key=lambda pair: len(pair[0]))[1] if tokens else None


def _vocab_size(tokenizer: Tokenizer, config: Mapping[str, Any]) -> int | None:
    """Return the larger of the two vocabularies; models pad theirs."""
    rows = _text_value(config, "vocab_size")
    sizes = [n for n in (tokenizer.vocab_size, rows) if isinstance(n, int)]
    return max(sizes, default=None)


def _not_found(files: list[str], ignored: list[EosSource]) -> EosNotFoundError:
    outside = ", ".join(str(source.token_id) for source in ignored)
    named = f" The ids {outside} are named but outside the vocabulary." * bool(outside)
    return EosNotFoundError(
        "No source names an end-of-sequence id, so nothing would end a completion but "
        f"its length. Read: {', '.join(files) or 'the tokenizer object alone'}.{named} "
        'Add "eos_token_id" to the model\'s generation_config.json, or give the '
        "tokenizer an eos_token.",
        files=files,
    )
