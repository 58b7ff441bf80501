# SPDX-License-Identifier: Apache-2.0

"""From a path, a name or a caller's object to a `Tokenizer`.

A directory is read as what it holds, in this order:

1. ``tokenizer_config.json``: by transformers' `AutoTokenizer`;
2. ``tokenizer.json`` alone: by the tokenizers library, which guesses nothing;
3. ``tokenizer.model`` alone: by the sentencepiece library;
4. ``config.json``: by `AutoTokenizer`, which knows older layouts of files.

A ``chat_template.jinja`` beside them is read in all four. Nothing of a local path is
looked up on a network.

A checkpoint may bring its own tokenizer as Python code (``auto_map``). Without
*trust_remote_code* that code is never run: the tokenizer is loaded by transformers' own
class where there is one, and refused where there is none.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from ..errors import ModelNotFoundError, TokenizerError, UnsafeModelError
from .adapters import (
    ForeignTokenizer,
    RustTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    TransformersTokenizer,
)

__all__ = ["Tokenizer", "load_tokenizer"]

CHAT_TEMPLATE_FILE = "chat_template.jinja"

_READ_BY_TRANSFORMERS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    CHAT_TEMPLATE_FILE,
)
"""What `AutoTokenizer` may read of a directory, for `Tokenizer.files`."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load_tokenizer(source: Any, *, trust_remote_code: bool = False) -> Tokenizer:
    """Load a tokenizer, or wrap one.

    Args:
        source: A directory; a ``tokenizer.json`` or sentencepiece model; a hub id; a
            tokenizer of transformers, tokenizers or sentencepiece; or any object with
            ``encode(text)`` and ``decode(ids)``. Objects are wrapped and not changed.
        trust_remote_code: Run tokenizer code that the checkpoint brings.

    Raises:
        ModelNotFoundError: Nothing is at the path.
        TokenizerError: There is no tokenizer, or it cannot be read.
        UnsafeModelError: Only code of the checkpoint could read it.
    """
    if isinstance(source, Tokenizer):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return _wrap(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _load_directory(path, trust_remote_code=trust_remote_code)
    if path.is_file():
        return _load_file(path)
    name = os.fspath(source)
    if isinstance(source, os.PathLike) or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"There is no tokenizer at {name!r}: the path does not exist. Pass a "
            "directory, a tokenizer.json, a tokenizer.model or a hub id."
        )
    return _load_from_hub(name, trust_remote_code=trust_remote_code)


# ----------------------------------------------------------------------------- objects


def _wrap(source: Any) -> Tokenizer:
    # A library that is not loaded yet cannot have made the object.
    if _is_a(source, "transformers", "PreTrainedTokenizerBase"):
        return TransformersTokenizer(source)
    if _is_a(source, "tokenizers", "Tokenizer"):
        return RustTokenizer(source)
    if _is_a(source, "sentencepiece", "SentencePieceProcessor"):
        return SentencePieceTokenizer(source)
    return ForeignTokenizer(source)


def _is_a(source: Any, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(source, getattr(loaded, name))


# ------------------------------------------------------------------------- directories


def _load_directory(path: Path, *, trust_remote_code: bool) -> Tokenizer:
    if (path / "tokenizer_config.json").is_file():
        return _load_by_transformers(path, trust_remote_code=trust_remote_code)
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).is_file():
            return _load_file(path / name)
    if (path / "config.json").is_file():
        return _load_by_transformers(path, trust_remote_code=trust_remote_code)
    raise TokenizerError(
        f"There is no tokenizer in {str(path)!r}. Looked for tokenizer_config.json, "
        "tokenizer.json, tokenizer.model and config.json. Copy the tokenizer's files "
        "there, or pass tokenizer= with where they are."
    )


def _load_file(path: Path) -> Tokenizer:
    template = path.parent / CHAT_TEMPLATE_FILE
    files = [str(path)]
    chat_template = None
    if template.is_file():
        files.append(str(template))
        chat_template = template.read_text(encoding="utf-8")
    kind = RustTokenizer if path.suffix == ".json" else SentencePieceTokenizer
    try:
        wrapped = _read_json(path) if kind is RustTokenizer else _read_model(path)
    except Exception as error:  # tokenizers raises bare Exception
        raise _unreadable(path, error) from error
    return kind(wrapped, files=files, chat_template=chat_template)


def _read_json(path: Path) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(path))


def _read_model(path: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def _unreadable(path: Path, error: Exception) -> TokenizerError:
    return TokenizerError(
        f"The tokenizer {str(path)!r} cannot be read: {type(error).__name__}: {error}. "
        "Copy or download it again; a git-lfs pointer in its place is a small text."
    )


def _load_by_transformers(path: Path, *, trust_remote_code: bool) -> Tokenizer:
    files = [str(path / name) for name in _READ_BY_TRANSFORMERS]
    files = [name for name in files if Path(name).is_file()]
    # transformers reads the two configs itself; broken JSON would be told less clearly.
    for name in ("tokenizer_config.json", "config.json"):
        _check_json(path / name)
    try:
        wrapped = _auto_tokenizer(path, trust_remote_code, local_files_only=True)
    except UnsafeModelError:
        raise
    except Exception as error:
        raise TokenizerError(
            f"The tokenizer in {str(path)!r} cannot be read: {type(error).__name__}: "
            f"{error}. Files found there: {', '.join(files) or 'none'}. If the "
            "tokenizer is somewhere else, pass tokenizer= with its directory."
        ) from error
    return TransformersTokenizer(wrapped, files=files)


def _check_json(path: Path) -> None:
    if path.is_file():
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise _unreadable(path, error) from error


def _load_from_hub(name: str, *, trust_remote_code: bool) -> Tokenizer:
    try:
        wrapped = _auto_tokenizer(name, trust_remote_code)
    except OSError as error:
        raise ModelNotFoundError(
            f"There is no file or directory {name!r}, and the hub gave no tokenizer of "
            f"that name: {error}"
        ) from error
    except UnsafeModelError:
        raise
    except Exception as error:
        raise TokenizerError(
            f"The tokenizer of {name!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    return TransformersTokenizer(wrapped, files=(name,))


def _auto_tokenizer(name: str | Path, trust_remote_code: bool, **options: Any) -> Any:
    """Load with `AutoTokenizer`.

    Raises:
        UnsafeModelError: transformers has no class of its own for it.
        Exception: Whatever transformers raises.
    """
    from transformers import AutoTokenizer

    try:
        # False, not None: None asks a question on the terminal.
        return AutoTokenizer.from_pretrained(
            name, trust_remote_code=trust_remote_code, **options
        )
    except ValueError as error:
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        raise UnsafeModelError(
            f"The tokenizer of {str(name)!r} is Python code of the checkpoint "
            "(auto_map in tokenizer_config.json), and transformers has no class of its "
            "own for it. Nothing of it was run. Read the code, then pass "
            "trust_remote_code=True; or pass tokenizer= with another tokenizer."
        ) from error
