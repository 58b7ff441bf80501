# SPDX-License-Identifier: Apache-2.0

"""From the name of a model to its directory: bundled, local, or from a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ConfigError, ModelLoadError, ModelNotFoundError, nearest_name
from .hub import GGUF_ADVICE, download

BUNDLED = {"unillm/tiny": Path(__file__).parent / "tiny"}
"""Models that ship inside the package, by name."""

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def find_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    weights: bool = True,
) -> Path:
    """Return the directory of a model.

    Args:
        model: A bundled name (``unillm/tiny``), a directory, or a Hugging Face hub id,
            which is taken from the local cache or downloaded (``HF_HUB_OFFLINE=1``
            forbids the download).
        revision: Branch, tag or commit of a hub id; `None` for its main branch.
        weights: Whether the weights are wanted too.

    Raises:
        ModelNotFoundError: The directory does not exist, or the hub has no such model.
        ModelError: `download` refuses it, or the directory holds GGUF alone.
        ConfigError: A directory is given with a revision.
    """
    name = os.fspath(model)
    if name in BUNDLED:
        _refuse_revision(name, revision)
        return BUNDLED[name]
    path = Path(os.path.expanduser(name))
    try:
        path.stat()
    except FileNotFoundError:
        pass  # it may be the name of a hub
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{name!r} cannot be read: {error}.") from error
    if path.is_dir():
        _refuse_revision(name, revision)
        _refuse_gguf(path)
        return path
    if path.suffix == ".gguf" and path.exists():
        raise ModelLoadError(f"{name!r} is a GGUF file. {GGUF_ADVICE}")
    if path.exists():
        raise ModelNotFoundError(
            f"{name!r} is a file; a model is a directory with config.json, weights "
            "and tokenizer. Pass the directory."
        )
    if not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"There is no directory {name!r}, and it is not a hub id of the form "
            f"'organisation/name'.{nearest_name(name, BUNDLED)} Check the path; the "
            f"bundled model is {next(iter(BUNDLED))!r}."
        )
    return download(name, revision=revision, weights=weights)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(
            f"revision={revision!r} is for models of a hub, and {name!r} is a "
            "directory. Leave revision out."
        )


def _refuse_gguf(path: Path) -> None:
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs and not (path / "config.json").exists():
        raise ModelLoadError(
            f"{path} holds GGUF alone ({', '.join(ggufs[:3])}). {GGUF_ADVICE}"
        )
