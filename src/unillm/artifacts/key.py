# SPDX-License-Identifier: Apache-2.0

"""The spec of a build, and the key that names its result.

A field of `BuildSpec` is exact: another value gives another engine. The exceptions are
labels, which have no effect, and limits, which an engine with larger ones covers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from ..errors import ConfigError
from .records import to_json

FlagValue = str | int | float | bool | None


_LABELS = ("model", "model_path", "python", "remedy")
_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")


def _at_least_one(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{field.name} must be an integer ≥ 1 or None, got {value!r}."
        )


def _limit() -> Any:
    return attrs.field(default=None, validator=_at_least_one)


def _frozen(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(sorted(value.items())))


@attrs.frozen
class Difference:
    """One value in which two specs differ."""

    name: str
    """A field, or ``flags.NAME`` and ``model_files.NAME``."""
    built: Any
    asked: Any

    def __str__(self) -> str:
        file = self.name.removeprefix("model_files.")
        if file == self.name:
            return f"{self.name} {_shown(self.built)} → {_shown(self.asked)}"
        if self.built is None:
            return f"{file} is new"
        return f"{file} is gone" if self.asked is None else f"{file} has other content"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


@attrs.frozen(kw_only=True)
class BuildSpec:
    """Everything that the result of a build depends on, in plain values.

    Raises:
        ConfigError: A limit is not an integer of at least 1.
    """

    model: str
    """The model in the caller's words."""

    model_path: Path
    """Directory of the model, for the build to read."""

    model_files: Mapping[str, str] = attrs.field(converter=_frozen, repr=False)
    """SHA-256 of every file of the model that the build reads, by its name."""

    backend: str
    """Name of the backend."""

    backend_version: str
    """Version of the plugin."""

    engine_version: str | None
    """Version of the library that converts or compiles. `None` where it is not
    installed, which allows a plan but no build."""

    device: str | None
    """Architecture that the result is bound to, such as ``"sm_90"``, or ``"any"``.
    `None` on a machine without such a device."""

    dtype: str
    """Data type of the computation; never "auto"."""

    quantization: str | None = None
    """Storage of the weights; `None` for that of the checkpoint."""

    tensor_parallel_size: int = 1
    """Number of devices that share each layer."""

    pipeline_parallel_size: int = 1
    """Number of groups of devices that share the layers."""

    flags: Mapping[str, FlagValue] = attrs.field(factory=dict, converter=_frozen)
    """Other options of this backend that change the result."""

    max_batch_size: int | None = _limit()
    """Largest number of requests at a time. For this and the other limits, `None` is an
    engine without such a limit."""

    max_input_len: int | None = _limit()
    """Most tokens of a prompt."""

    max_seq_len: int | None = _limit()
    """Most tokens of a prompt and its completion."""

    max_num_tokens: int | None = _limit()
    """Most tokens in one step, over all requests."""

    python: str | None = None
    """Interpreter of the environment that converts, for `run_converter`; `None` for
    this one. The result does not depend on it."""

    remedy: str = ""
    """A sentence or a command that makes the unknown fields known."""

    @property
    def key(self) -> str:
        """Name of the result, 32 hexadecimal digits."""
        content = to_json(self)
        for name in _LABELS:
            del content[name]
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def limits(self) -> dict[str, int | None]:
        """The limits, which a larger engine may cover."""
        return {name: getattr(self, name) for name in _LIMITS}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Fields that are unknown on this machine, which prevents a build."""
        return tuple(
            name for name in ("engine_version", "device") if getattr(self, name) is None
        )

    def covers(self, asked: BuildSpec) -> bool:
        """Whether an engine for this spec serves *asked*.

        Fields that are unknown in *asked* are not compared.
        """
        return all(
            getattr(self, name) == getattr(asked, name)
            for name in _exact_fields()
            if name not in asked.unknown
        ) and all(
            _covers(limit, asked.limits[name]) for name, limit in self.limits.items()
        )

    def excess(self, asked: BuildSpec) -> float:
        """How much larger this is than *asked*, which it covers; 1 for equal limits.

        A product over the limits, which grows like the memory of the engine.
        """
        return math.prod(
            (limit or math.inf) / wanted
            for name, limit in self.limits.items()
            if (wanted := asked.limits[name]) is not None
        )

    def differences(self, asked: BuildSpec) -> list[Difference]:
        """Return the values in which *asked* differs, without labels.

        Fields that are unknown in either spec are not compared.
        """
        unknown = {*self.unknown, *asked.unknown}
        return [
            difference
            for name in (*_exact_fields(), *_LIMITS)
            if name not in unknown
            for difference in _differences(
                name, getattr(self, name), getattr(asked, name)
            )
        ]


def _exact_fields() -> list[str]:
    names = [field.name for field in attrs.fields(BuildSpec)]
    return [name for name in names if name not in _LABELS + _LIMITS]


def _covers(built: int | None, asked: int | None) -> bool:
    """Whether a built limit covers an asked one; `None` stands for unlimited."""
    return built is None or (asked is not None and built >= asked)


def _differences(name: str, built: Any, asked: Any) -> Iterable[Difference]:
    if isinstance(built, Mapping):
        for key in sorted({*built, *asked}):
            yield from _differences(f"{name}.{key}", built.get(key), asked.get(key))
    elif built != asked:
        yield Difference(name, built, asked)
