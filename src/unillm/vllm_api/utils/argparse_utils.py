# SPDX-License-Identifier: Apache-2.0

"""``vllm.utils.argparse_utils``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class FlexibleArgumentParser(argparse.ArgumentParser):
    """A parser for which ``--max_model_len`` and ``--max-model-len`` are one."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments whose names may be spelt with either sign."""
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([*map(self._spelt, given)], namespace)

    def _spelt(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            return argument
        words = name[2:].replace("-", "_").split("_")
        for spelling in (name, "--" + "-".join(words), "--" + "_".join(words)):
            if spelling in self._option_string_actions:
                return spelling + equals + value
        return argument
