# SPDX-License-Identifier: Apache-2.0

"""From the name of a model to its directory: bundled, local, or from a hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ModelNotFoundError, nearest_name

BUNDLED = {"unillm/tiny": Path(__file__).parent / "tiny"}
"""Models that ship inside the package, by name."""

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")

_WEIGHTS = "*.safetensors"
_FILES = ("*.json", _WEIGHTS, "*.model", "*.jinja", "*.txt")
"""Files to download: no pickled weights, no code."""


def find_model(model: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """Return the directory of a model.

    Args:
        model: A bundled name (``unillm/tiny``), a directory, or a Hugging Face hub id,
            which is taken from the local cache or downloaded (``HF_HUB_OFFLINE=1``
            forbids the download).
        weights: Whether the weights are wanted too.

    Raises:
        ModelNotFoundError: The directory does not exist, or the hub has no such model.
    """
    name = os.fspath(model)
    if name in BUNDLED:
        return BUNDLED[name]
    path = Path(name).expanduser()
    try:
        path.stat()
    except FileNotFoundError:
        pass  # it may be the name of a hub
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{name!r} cannot be read: {error}.") from error
    if path.is_dir():
        return path
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
    return download(name, weights=weights)


def download(name: str, *, weights: bool = True) -> Path:
    """Return the directory of a hub id, from the local cache or downloaded.

    Args:
        name: The hub id.
        weights: Whether the weights are wanted too.

    Raises:
        ModelNotFoundError: The hub has no such model, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    files = [each for each in _FILES if weights or each != _WEIGHTS]
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:
        raise ModelNotFoundError(
            f"There is no directory {name!r}, and the hub gave no model of that name: "
            f"{type(error).__name__}: {error}. Check the name, the network and, for a "
            "gated model, the token (`hf auth login`)."
        ) from error
