# SPDX-License-Identifier: Apache-2.0

"""A new backend as a distribution, which passes the contract with its own engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ...distributions import CORE
from ...errors import ConfigError
from ...plugins import EMBEDDED, KNOWN

Kind = Literal["engine", "slots", "batch"]
"""The contract of the engine: `Engine`, `SlotEngine` or `BatchEngine`."""

_FILES = Path(__file__).parent / "files"


def write_backend(name: str, kind: Kind, folder: Path) -> list[Path]:
    """Write the distribution of a new backend.

    Args:
        name: Name of the backend, in lower case, with dashes between words.
        kind: The contract that its engine implements.
        folder: Where the distribution's folder, ``unillm-NAME``, is made.

    Returns:
        The files.

    Raises:
        ConfigError: The name is not valid or taken, or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(
            f"{name!r} is not a name for a backend. Use lower-case letters and digits, "
            "with dashes between words: my-engine."
        )
    if name in {*EMBEDDED, *KNOWN, "auto"} or f"unillm-{name}" == CORE:
        raise ConfigError(f"The name {name!r} belongs to unillm. Choose another.")
    target = folder / f"unillm-{name}"
    if target.exists():
        raise ConfigError(f"{target} exists. Choose another name or folder.")
    module = f"unillm_{name.replace('-', '_')}"
    source = Path("src") / module
    files = {
        "pyproject.toml": Path("pyproject.toml"),
        "README.md": Path("README.md"),
        "ci.yml": Path(".github") / "workflows" / "ci.yml",
        "test_contract.py": Path("tests") / "test_contract.py",
        "package.py": source / "__init__.py",
        f"{kind}.py": source / "engine.py",
    }
    names = {
        "unillm_newengine": module,
        "Newengine": name.title().replace("-", ""),
        "newengine": name,
    }
    for template, path in files.items():
        text = (_FILES / template).read_text(encoding="utf-8")
        # At once: a name may hold that of the template.
        text = re.sub("|".join(names), lambda found: names[found[0]], text)
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(text, encoding="utf-8")
    return [target / path for path in files.values()]
