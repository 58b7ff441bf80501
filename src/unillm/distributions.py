# SPDX-License-Identifier: Apache-2.0

"""Names of unillm's distributions, and the commands that install them.

On the Python Package Index the name ``unillm`` belongs to another project, so the
distributions are ``unillm-sdk`` and ``unillm-sdk-…``; the package to import stays
``unillm``. None of the distributions is published yet: each command names the checkout
that this core comes from, or the folders of a checkout where that is not known.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

VERSION = "0.1.0"
"""The version of this package, which ``pyproject.toml`` reads here."""

CORE = "unillm-sdk"
"""The distribution of this package."""

BACKENDS = ("ctranslate2", "remote", "tensorrt-llm", "vllm")
"""Backends that are distributions of their own."""

FOREIGN = "unillm"
"""The distribution of another project, whose package to import has our name."""


def plugin(name: str) -> str:
    """Return the name of a plugin's distribution."""
    return f"{CORE}-{name}"


def install(extra: str = "", *, python: str = "") -> str:
    """Return the command that installs the core.

    Args:
        extra: An optional dependency with which it is installed.
        python: The interpreter that gets it; empty for the one of the shell.
    """
    pip = f"{python} -m pip install" if python else "pip install"
    extras = f"[{extra}]" if extra else ""
    origin = _origin()
    if origin is None:
        return f'{pip} ".{extras}"  # in a checkout of unillm'
    if origin.is_file():
        return f'{pip} "{CORE}{extras} @ {origin.as_uri()}"'
    return f'{pip} {"-e " * (_checkout() is not None)}"{origin}{extras}"'


def install_plugin(name: str) -> str:
    """Return the command that installs a plugin, by the name of its backend."""
    folder = Path("plugins", f"unillm-{name}")
    origin = _origin()
    if origin is not None and (origin / folder).is_dir():
        return f'pip install "{origin / folder}"'
    return f'pip install "./{folder.as_posix()}"  # in a checkout of unillm'


@cache
def warn_of_foreign() -> None:
    """Warn once if the other project's distribution has files in our package."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution(FOREIGN)
    except PackageNotFoundError:
        return
    if not any(file.parts[0] == FOREIGN for file in found.files or ()):
        return
    warnings.warn(
        f"The distribution {FOREIGN} {found.version} is installed here "
        f"({found.metadata['Summary']!r}). This package is the distribution {CORE}. "
        "Both install the folder 'unillm', so they overwrite each other's files. Run: "
        f"pip uninstall -y {FOREIGN} {CORE}. Then install this one again: {install()}",
        stacklevel=2,
    )


def _origin() -> Path | None:
    """Return the folder or wheel that this package was installed from, if it exists."""
    if (checkout := _checkout()) is not None:
        return checkout
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        recorded = distribution(CORE).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = urlsplit(json.loads(recorded)["url"] if recorded else "")
    path = Path(url2pathname(url.path))
    return path if url.scheme == "file" and path.exists() else None


def _checkout() -> Path | None:
    """Return the checkout that this module lies in; `None` in an installed copy."""
    root = Path(__file__).parents[2]
    return root if (root / "plugins" / "unillm-vllm").is_dir() else None
