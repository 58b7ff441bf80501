# SPDX-License-Identifier: Apache-2.0

"""Which ids end a completion, and where each one was found.

Checkpoints disagree with themselves: the tokenizer names one id, the generation config
several, and a chat model's end of turn may be in neither. Stopping at too few runs past
the answer, so all sources count; the order of sources decides only what is reported.

Configs are read as plain JSON, so that every backend gets the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigError, EosNotFoundError, ModelLoadError, UnillmError
from .adapters import Tokenizer

_GENERATION_CONFIG = "generation_config.json"
_CONFIG = "config.json"
_TOKENIZER = "tokenizer"
_CHAT_TEMPLATE = "chat template"
_USER = "user"

_ANSWER = "unillm looks for what follows this sentence"


@attrs.frozen
class EosSource:
    """One end id."""

    token_id: int
    token: str | None
    """As the vocabulary writes it; `None` for an id without a token."""
    origins: tuple[str, ...]
    """Every source that names it, such as ``"config.json"``."""


@attrs.frozen(kw_only=True)
class EosIds:
    """The ids that end a completion. Never empty."""

    ids: frozenset[int]
    primary: int
    """The tokenizer's own; ending on it has no `stop_reason`. The first of `sources`
    if the tokenizer names none."""
    sources: tuple[EosSource, ...]
    """Each id once, in the order in which they were found."""
    ignored: tuple[EosSource, ...] = ()
    """Ids that a source names and the model cannot produce."""


def read_config_file(directory: Path, name: str) -> dict[str, Any] | None:
    """Read a JSON object of the model; `None` if there is no such file.

    Raises:
        ModelLoadError: The file is there and is no JSON object.
    """
    path = directory / name
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{str(path)!r} cannot be read as JSON: {error}. Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(
            f"{str(path)!r} must hold a JSON object, but holds a "
            f"{type(content).__name__}. Copy or download it again."
        )
    return content


def resolve_eos(
    tokenizer: Tokenizer,
    *,
    generation_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    user_ids: Iterable[int] = (),
) -> EosIds:
    """Return every id that ends a completion, and where each was found.

    An id that no row of the model's vocabulary has (negative, or too high for both the
    tokenizer and ``vocab_size`` of the config) is reported in `EosIds.ignored`: the
    model cannot say it, and engines refuse it.

    Args:
        tokenizer: Names its own EOS, and has the chat template.
        generation_config: The model's ``generation_config.json``; `None` without one.
        config: The model's ``config.json``; `None` without one.
        user_ids: Further ids that the user wants.

    Raises:
        EosNotFoundError: No source names an id. Lists what was read.
        ModelLoadError: A config names something that is no id.
        ConfigError: One of *user_ids* is not in the vocabulary.
    """
    # Keys keep the order of insertion: that of the sources.
    found: dict[int, list[str]] = {}
    for origin, token_id in _named_ids(
        tokenizer, generation_config, config, tuple(user_ids)
    ):
        origins = found.setdefault(token_id, [])
        if origin not in origins:
            origins.append(origin)
    size = _vocab_size(tokenizer, config)
    sources: list[EosSource] = []
    ignored: list[EosSource] = []
    for token_id, origins in found.items():
        known = token_id >= 0 and (size is None or token_id < size)
        if _USER in origins and not known:
            raise ConfigError(
                f"The end id {token_id} is not in the vocabulary of {size} ids. "
                "Pass ids that the tokenizer has."
            )
        token = tokenizer.id_to_token(token_id) if known else None
        source = EosSource(token_id, token, tuple(origins))
        (sources if known else ignored).append(source)
    if not sources:
        raise _not_found(tokenizer, generation_config, config, ignored)
    ids = frozenset(source.token_id for source in sources)
    own = tokenizer.eos_token_id
    return EosIds(
        ids=ids,
        primary=own if own in ids and own is not None else sources[0].token_id,
        sources=tuple(sources),
        ignored=tuple(ignored),
    )


def _named_ids(
    tokenizer: Tokenizer,
    generation_config: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    user_ids: tuple[int, ...],
) -> Iterator[tuple[str, int]]:
    for origin, content in ((_GENERATION_CONFIG, generation_config), (_CONFIG, config)):
        for token_id in _config_ids(content or {}, origin):
            yield origin, token_id
    if tokenizer.eos_token_id is not None:
        yield _TOKENIZER, tokenizer.eos_token_id
    end_of_turn = _end_of_turn(tokenizer)
    if end_of_turn is not None:
        yield _CHAT_TEMPLATE, end_of_turn
    for token_id in user_ids:
        yield _USER, token_id


def _config_ids(content: Mapping[str, Any], origin: str) -> list[int]:
    """Return ``eos_token_id``, an int or a list; a multimodal model has it one deeper.

    References:
        transformers, ``PreTrainedConfig.get_text_config``: the key ``text_config``.
    """
    value = content.get("eos_token_id")
    if value is None and isinstance(content.get("text_config"), Mapping):
        value = content["text_config"].get("eos_token_id")
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


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    """Return the special token that the chat template puts behind an answer."""
    if tokenizer.chat_template is None:
        return None
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": _ANSWER},
    ]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    except UnillmError:
        return None  # a template that wants other messages tells nothing here
    # Some templates put a space or a line end first, as Llama 2's does.
    behind = text.rpartition(_ANSWER)[2].lstrip()
    tokens = [
        (token, token_id)
        for token_id in tokenizer.special_token_ids
        if (token := tokenizer.id_to_token(token_id)) and behind.startswith(token)
    ]
    return max(tokens, key=lambda pair: len(pair[0]))[1] if tokens else None


def _vocab_size(tokenizer: Tokenizer, config: Mapping[str, Any] | None) -> int | None:
    """Return the larger of the two vocabularies; models pad theirs."""
    config = config or {}
    text_config = config.get("text_config")
    rows = config.get("vocab_size")
    if rows is None and isinstance(text_config, Mapping):
        rows = text_config.get("vocab_size")
    if tokenizer.vocab_size is None:
        return rows if isinstance(rows, int) else None
    return max(tokenizer.vocab_size, rows if isinstance(rows, int) else 0)


def _not_found(
    tokenizer: Tokenizer,
    generation_config: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    ignored: list[EosSource],
) -> EosNotFoundError:
    files = [
        *((_GENERATION_CONFIG,) if generation_config is not None else ()),
        *((_CONFIG,) if config is not None else ()),
        *tokenizer.files,
    ]
    outside = ", ".join(str(source.token_id) for source in ignored)
    named = f" The ids {outside} are named but outside the vocabulary." * bool(outside)
    return EosNotFoundError(
        "No source names an end-of-sequence id, so nothing would end a completion but "
        f"its length. Read: {', '.join(files) or 'the tokenizer object alone'}.{named} "
        'Add "eos_token_id" to the model\'s generation_config.json, or give the '
        "tokenizer an eos_token.",
        files=files,
    )
