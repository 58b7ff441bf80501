# SPDX-License-Identifier: Apache-2.0

"""Loading of a model's tokenizer, EOS tokens and sampling defaults, without weights.

`load_tokenizer` reads a directory by the first of these files that it holds:

1. ``tokenizer_config.json``: by transformers' `AutoTokenizer`;
2. ``tokenizer.json`` alone: by the tokenizers library, which guesses nothing;
3. ``tokenizer.model`` alone: by the sentencepiece library;
4. ``config.json``: by `AutoTokenizer`, which knows older layouts of files.

In all four cases it reads the chat templates beside them too (``chat_template.jinja``
and those of ``additional_chat_templates/``), and the names of BOS, EOS and other tokens
in ``special_tokens_map.json``. A local path needs no network.

A checkpoint may bring its own tokenizer as Python code (``auto_map``). Without
*trust_remote_code* that code never runs: transformers' own class loads the tokenizer
where there is one, and `UnsafeModelError` is raised where there is none.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import (
    ModelLoadError,
    ModelNotFoundError,
    TokenizerError,
    UnillmError,
    UnsafeModelError,
)
from ..files import check_file, is_there, read_json, read_text
from ..imports import collector_paused
from ..model.checkpoint import find_config, load_config
from ..model.directory import check_text_files
from ..model.hub import download
from . import templates
from .bounded import panics_as_errors
from .eos import EosIds, resolve_eos
from .generation_config import ModelDefaults, read_defaults, settings_of_config
from .tokenizer import (
    ForeignTokenizer,
    RustTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    TransformersTokenizer,
)
from .tokenizer_config import check_tokenizer_config
from .tokenizer_file import check_tokenizer_file

CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATE_FOLDER = "additional_chat_templates"
"""Folder of further templates, each in a file of its name."""
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

_READ_BY_TRANSFORMERS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    SPECIAL_TOKENS_FILE,
    "added_tokens.json",
    CHAT_TEMPLATE_FILE,
)
"""Files that `AutoTokenizer` may read, for `Tokenizer.files`."""

_BUILT_ENGINE = "pretrained_config"
"""Key of a ``config.json`` that describes a built engine instead of a model; such a
file names no EOS tokens."""

_SAMPLE = "Hello, world 42"

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@attrs.frozen(kw_only=True)
class ModelText:
    """The files of a model that concern text, as `read_model_text` returns them."""

    tokenizer: Tokenizer
    eos: EosIds
    model_config: Mapping[str, Any]
    """``config.json``; empty without one."""
    defaults: ModelDefaults
    """The params and lengths of a call that passes no params."""


def read_model_text(
    path: Path,
    tokenizer: Any = None,
    chat_template: str | None = None,
    *,
    trust_remote_code: bool = False,
    load: Callable[..., Tokenizer] | None = None,
) -> ModelText:
    """Read the files of a model that concern text.

    Args:
        path: Directory of the model, or of a built engine.
        tokenizer: Source of the tokenizer, as for `load_tokenizer`; `None` for *path*.
            A built engine may lack the configs of its model; then they are read from
            the directory of its tokenizer.
        chat_template: What the caller has in place of the tokenizer's template: a text,
            or the name of one of the tokenizer's, which is checked.
        trust_remote_code: Run tokenizer code that the checkpoint brings.
        load: What reads the tokenizer; `None` for `load_tokenizer`.

    Raises:
        ChatTemplateError: *chat_template* is neither.
        ModelLoadError: A configuration file is broken.
        TokenizerError: No tokenizer was found, or it cannot be read.
        UnsafeModelError: The tokenizer would run code of the checkpoint.
        EosNotFoundError: No source names an EOS token.
    """
    beside = None
    if isinstance(tokenizer, (str, os.PathLike)):
        beside = Path(os.path.expanduser(tokenizer))
    generation_config = read_json(path, "generation_config.json")
    if generation_config is None and beside is not None:
        generation_config = read_json(beside, "generation_config.json")
    model_config = find_config(path)
    if model_config is not None and _BUILT_ENGINE in model_config:
        model_config = None if beside is None else find_config(beside)
    loaded = (load or load_tokenizer)(
        path if tokenizer is None else tokenizer, trust_remote_code=trust_remote_code
    )
    if chat_template is not None:
        templates.choose_template(
            loaded.chat_templates, chat_template, with_tools=False
        )
    return ModelText(
        tokenizer=loaded,
        eos=resolve_eos(
            loaded, generation_config=generation_config, config=model_config
        ),
        model_config=model_config or {},
        defaults=_defaults(generation_config, model_config or {}),
    )


def _defaults(
    generation_config: Mapping[str, Any] | None, model_config: Mapping[str, Any]
) -> ModelDefaults:
    vocab_size = model_config.get("vocab_size")
    if not isinstance(vocab_size, int):
        vocab_size = None
    if generation_config is not None:
        return read_defaults(generation_config, vocab_size=vocab_size)
    settings = settings_of_config(model_config)
    return read_defaults(settings, source="config.json", vocab_size=vocab_size)


def load_tokenizer(source: Any, *, trust_remote_code: bool = False) -> Tokenizer:
    """Load a tokenizer, or wrap one.

    Args:
        source: A directory; a ``tokenizer.json`` or sentencepiece model; a hub id; a
            tokenizer of transformers, tokenizers or sentencepiece; or any object with
            ``encode(text)`` and ``decode(ids)``. Objects are wrapped, not changed.
        trust_remote_code: Run tokenizer code that the checkpoint brings.

    Raises:
        ModelNotFoundError: The path does not exist.
        TokenizerError: The directory has no tokenizer, or it cannot be read.
        UnsafeModelError: Only code of the checkpoint could read it.
    """
    if isinstance(source, Tokenizer):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return _wrap(source)
    path = Path(os.path.expanduser(source))
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
    check_text_files(path)
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
    check_tokenizer_config(path.parent)
    chat_templates = template_files(path.parent)
    special = _special_tokens(path.parent)
    listed = [path, *chat_templates.values()]
    if special:
        listed.append(path.parent / SPECIAL_TOKENS_FILE)
    kind: type[RustTokenizer | SentencePieceTokenizer]
    kind = RustTokenizer if path.suffix == ".json" else SentencePieceTokenizer
    texts = {name: read_text(file) for name, file in chat_templates.items()}
    try:
        with panics_as_errors():
            loaded = kind(
                _read_wrapped(path, special),
                files=[str(file) for file in listed],
                chat_templates=texts,
                special_tokens=special,
            )
            _try_out(loaded)
    except UnillmError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise _unreadable(path, error) from error
    return loaded


def _read_wrapped(path: Path, special: Mapping[str, str]) -> Any:
    """Return the library's object for a ``tokenizer.json`` or a sentencepiece model."""
    if path.suffix == ".json":
        import tokenizers

        check_tokenizer_file(path)
        wrapped: Any = tokenizers.Tokenizer.from_file(str(path))
        _mark_special(wrapped, special)
        return wrapped
    import sentencepiece

    check_file(path)
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def _try_out(tokenizer: Tokenizer) -> None:
    """Use a tokenizer once, because a broken one may panic only then."""
    with contextlib.suppress(Exception):  # it may have no token for the text
        ids = tokenizer.encode(_SAMPLE, add_special_tokens=True)
        tokenizer.decode(ids, skip_special_tokens=True)


def template_files(directory: Path) -> dict[str, Path]:
    """Return the files of chat templates by the names of the templates."""
    default = directory / CHAT_TEMPLATE_FILE
    found = {templates.DEFAULT: default} if default.is_file() else {}
    further = sorted((directory / CHAT_TEMPLATE_FOLDER).glob("*.jinja"))
    return {**found, **{file.stem: file for file in further}}


def _special_tokens(directory: Path) -> dict[str, str]:
    """Return the tokens that ``special_tokens_map.json`` names, by their names."""
    named = read_json(directory, SPECIAL_TOKENS_FILE) or {}
    texts = {
        name: token.get("content") if isinstance(token, Mapping) else token
        for name, token in named.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _mark_special(wrapped: Any, special: Mapping[str, str]) -> None:
    """Make tokens special that the file of the tokenizer has as plain ones."""
    import tokenizers

    added = wrapped.get_added_tokens_decoder()
    for text in special.values():
        token_id = wrapped.token_to_id(text)
        if token_id is not None and not (token_id in added and added[token_id].special):
            wrapped.add_special_tokens([tokenizers.AddedToken(text, special=True)])


def _unreadable(path: Path, error: Exception) -> TokenizerError:
    return TokenizerError(
        f"The tokenizer {str(path)!r} cannot be read: {type(error).__name__}: {error}. "
        "Copy or download it again; a git-lfs pointer in its place is a small text."
    )


def _load_by_transformers(path: Path, *, trust_remote_code: bool) -> Tokenizer:
    listed = [path / name for name in _READ_BY_TRANSFORMERS]
    files = [str(file) for file in listed if file.is_file()]
    check_tokenizer_config(path)
    check_tokenizer_file(path / "tokenizer.json")
    try:
        with panics_as_errors():
            wrapped = _auto_tokenizer(path, trust_remote_code, local_files_only=True)
            loaded = TransformersTokenizer(wrapped, files=files)
            _try_out(loaded)
    except UnsafeModelError:
        raise
    except Exception as error:
        _raise_fault_of_config(path, error)
        raise TokenizerError(
            f"The tokenizer in {str(path)!r} cannot be read: {type(error).__name__}: "
            f"{error}. Files found there: {', '.join(files) or 'none'}. If the "
            "tokenizer is somewhere else, pass tokenizer= with its directory."
        ) from error
    return loaded


def _raise_fault_of_config(path: Path, error: Exception) -> None:
    """Raise the error of ``config.json``, which `AutoTokenizer` reads too.

    Raises:
        ModelLoadError: transformers refuses the file with the same words.
    """
    if not is_there(path / "config.json"):
        return
    try:
        load_config(path)
    except ModelLoadError as refusal:
        if str(refusal.__cause__) == str(error):
            raise refusal from error


def _load_from_hub(name: str, *, trust_remote_code: bool) -> Tokenizer:
    if not trust_remote_code:  # else transformers downloads the code too
        path = download(name, weights=False)
        return _load_directory(path, trust_remote_code=False)
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
    try:
        with collector_paused():
            from transformers import AutoTokenizer

            # False, not None, with which transformers asks a question on the terminal.
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
