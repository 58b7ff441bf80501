# SPDX-License-Identifier: Apache-2.0

"""A ``config.json`` as the formulas of sizes read it, without transformers.

transformers knows the names and the defaults that a ``config.json`` leaves out, and
importing it loads torch, which takes seconds. ``known_configs.json`` has the names and
defaults that `sizes`, `positions`, `memory` and `traffic` read, for the families whose
configuration computes nothing else from them; ``scripts/write_known_configs.py`` makes
it from transformers. Any other configuration is read by transformers itself.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .checkpoint import load_config, read_config

DATA = Path(__file__).with_name("known_configs.json")

RULES: Mapping[str, Callable[[Any], int | None]] = {
    "by heads": lambda config: config.hidden_size // config.num_attention_heads,
    "rotated": lambda config: getattr(config, "qk_rope_head_dim", None),
    "both": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim,
}
"""Sizes of a head that families compute where the file has none, by name."""


def describe_config(path: Path) -> Any:
    """Return the configuration of a model, for formulas of its sizes.

    The object has the attributes of transformers' configuration that the formulas read.
    Importing transformers is left out where the family is known.

    Raises:
        ModelError: There is no ``config.json``, or it is broken.
    """
    declared = read_config(path)
    return known_config(declared) or load_config(path)


def known_config(declared: Mapping[str, Any]) -> KnownConfig | None:
    """Return the configuration if its family is known, or else `None`."""
    family = _families().get(str(declared.get("model_type")))
    if family is None or "text_config" in declared or "auto_map" in declared:
        return None
    config = KnownConfig(declared, family)
    return config if config.is_complete() else None


class KnownConfig:
    """A ``config.json`` with the names and defaults of its family.

    Args:
        declared: Content of the file.
        family: ``names``, other names of attributes; ``defaults``, the value of each
            field that the file may leave out; ``computed``, the name of a rule for
            each field that is computed where it has no value.
    """

    def __init__(self, declared: Mapping[str, Any], family: Mapping[str, Any]) -> None:
        self.model_type = declared["model_type"]
        self.dtype = declared.get("dtype") or declared.get("torch_dtype")
        self._names = names = family["names"]
        self._declared = {names.get(key, key): declared[key] for key in declared}
        self._defaults = family["defaults"]
        self._computed = family["computed"]

    def is_complete(self) -> bool:
        """Whether nothing is left that the family computes from further fields."""
        if not self._has_known_heads():
            return False
        if "layer_types" not in self._defaults:
            # transformers may take such a file for one of another family.
            return not self._declared.get("layer_types")
        # A family without windows has layers of one type.
        return bool(self._value("layer_types")) or self._has_windows_off()

    def _has_known_heads(self) -> bool:
        """Whether ``head_dim`` has the value that transformers gives it."""
        if "head_dim" not in self._declared:
            return True
        declared = self._declared["head_dim"]
        if declared is None:
            return self._defaults.get("head_dim") is None
        # A family with a rotated part may put its size in place of the declared one.
        is_rotated = self._computed.get("head_dim") == "rotated"
        return not is_rotated or bool(declared == RULES["rotated"](self))

    def _has_windows_off(self) -> bool:
        """Whether the family has a switch for windows, and it is off."""
        field = "use_sliding_window"
        return field in self._defaults and self._value(field) is False

    def get_text_config(self, *, decoder: bool = True) -> KnownConfig:
        """Return the configuration of the text model: itself."""
        del decoder
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "rope_parameters" and name in self._defaults:
            return self._rope()
        if name == "sliding_window" and self._has_windows_off():
            return None
        field = self._names.get(name, name)
        if not any(
            field in fields
            for fields in (self._declared, self._defaults, self._computed)
        ):
            raise AttributeError(f"{self.model_type!r} has no {name}")
        value = self._value(field)
        if value is None and field in self._computed:
            return RULES[self._computed[field]](self)
        return value

    def _value(self, field: str) -> Any:
        return self._declared.get(field, self._defaults.get(field))

    def _rope(self) -> Mapping[str, Any]:
        """Return the settings of rotary embeddings under their name since 5.0."""
        # The older name goes first, as in transformers.
        rope = self._value("rope_scaling") or self._value("rope_parameters") or {}
        return {"rope_theta": self._value("rope_theta"), **rope}


@functools.cache
def _families() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]]
    found = json.loads(DATA.read_text(encoding="utf-8"))
    return found
