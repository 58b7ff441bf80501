# SPDX-License-Identifier: Apache-2.0

"""What an engine is prepared for, and the key that follows from it.

Each field of `BuildSpec` says what part it has in that, and the key is computed from
the class: a new field without a `Role` is an error when the module is imported.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from ..errors import ConfigError

FlagValue = str | int | float | bool | None


class Role(enum.Enum):
    """What a field has to do with the result of a build."""

    LABEL = "label"
    """Nothing: it is for people, or says where to read."""
    EXACT = "exact"
    """Another value is another engine."""
    COVERED = "covered"
    """A limit: an engine that was built with a larger one serves as well."""


_LABEL = {Role: Role.LABEL}


def _exact(**options: Any) -> Any:
    return attrs.field(metadata={Role: Role.EXACT}, **options)


def _limit() -> Any:
    return attrs.field(
        default=None, metadata={Role: Role.COVERED}, validator=_at_least_one
    )


def _at_least_one(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{field.name} must be an integer ≥ 1 or None, got {value!r}."
        )


def _frozen(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(sorted(value.items())))


def _all_have_roles(
    cls: type, fields: list[attrs.Attribute[Any]]
) -> list[attrs.Attribute[Any]]:
    for field in fields:
        if Role not in field.metadata:
            raise TypeError(f"{cls.__name__}.{field.name} has no Role.")
    return fields


@attrs.frozen
class Difference:
    """One number in which two specs differ."""

    name: str
    """A field, or ``flags.NAME`` and ``model_files.NAME``."""
    built: Any
    asked: Any

    def __str__(self) -> str:
        if self.name.startswith("model_files."):
            return f"{self.name.removeprefix('model_files.')} {self._of_file()}"
        return f"{self.name} {_shown(self.built)} → {_shown(self.asked)}"

    def _of_file(self) -> str:
        if self.built is None:
            return "is new"
        return "is gone" if self.asked is None else "has another content"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


@attrs.frozen(kw_only=True, field_transformer=_all_have_roles)
class BuildSpec:
    """Everything that the result of a build depends on.

    Values are plain: texts, numbers and mappings of them.

    Raises:
        ConfigError: A limit is not an integer of at least 1.
    """

    model: str = attrs.field(metadata=_LABEL)
    """As the caller wrote it."""

    model_path: Path = attrs.field(metadata=_LABEL)
    """Directory of the model, for the build to read."""

    model_files: Mapping[str, str] = _exact(converter=_frozen, repr=False)
    """SHA-256 of every file of the model that the build reads, by its name."""

    backend: str = _exact()
    """Name of the backend."""

    backend_version: str = _exact()
    """Of the plugin."""

    engine_version: str | None = _exact()
    """Of what converts or compiles. `None` where it is not installed: then a plan can
    be made and nothing be built."""

    device: str | None = _exact()
    """Architecture that the result is bound to, such as ``"sm_90"``; ``"any"`` if to
    none. `None` where it cannot be known because there is no such device."""

    dtype: str = _exact()
    """Of the numbers that are computed with; never "auto"."""

    quantization: str | None = _exact(default=None)
    """How the result stores its weights; `None` for as the checkpoint does."""

    tensor_parallel_size: int = _exact(default=1)
    """Devices that share each layer."""

    pipeline_parallel_size: int = _exact(default=1)
    """Groups of devices that share the layers."""

    flags: Mapping[str, FlagValue] = _exact(factory=dict, converter=_frozen)
    """Whatever else changes the result and only this engine knows."""

    max_batch_size: int | None = _limit()
    """Requests at a time. For this and the other limits `None` means that the engine
    has no such limit, not that any will do."""

    max_input_len: int | None = _limit()
    """Tokens of a prompt."""

    max_seq_len: int | None = _limit()
    """Tokens of a prompt and what follows it."""

    max_num_tokens: int | None = _limit()
    """Tokens in one step, over all requests."""

    @property
    def key(self) -> str:
        """Name of the result, of 32 hexadecimal digits."""
        content = self.to_json()
        for name in _names(Role.LABEL):
            del content[name]
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def limits(self) -> dict[str, int | None]:
        """The fields that a larger engine may cover."""
        return {name: getattr(self, name) for name in _names(Role.COVERED)}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Fields that cannot be known here, so that nothing can be built."""
        return tuple(
            name for name in ("engine_version", "device") if getattr(self, name) is None
        )

    def covers(self, asked: BuildSpec) -> bool:
        """Whether what was built for this spec serves what *asked* is for.

        As far as can be known: what *asked* does not know is not compared.
        """
        return all(
            getattr(self, name) == getattr(asked, name)
            for name in _names(Role.EXACT)
            if name not in asked.unknown
        ) and all(
            _covers(limit, asked.limits[name]) for name, limit in self.limits.items()
        )

    def excess(self, asked: BuildSpec) -> float:
        """How much larger this is than *asked*, which it covers; 1 if not at all.

        The product over the limits, so that it grows like the memory it takes.
        """
        return math.prod(
            (limit or math.inf) / wanted
            for name, limit in self.limits.items()
            if (wanted := asked.limits[name]) is not None
        )

    def differences(self, asked: BuildSpec) -> list[Difference]:
        """Return in what *asked* differs from this, labels aside.

        What is unknown in one of the two is not counted.
        """
        unknown = {*self.unknown, *asked.unknown}
        return [
            difference
            for name in (*_names(Role.EXACT), *_names(Role.COVERED))
            if name not in unknown
            for difference in _differences(
                name, getattr(self, name), getattr(asked, name)
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {
            name: _plain(getattr(self, name)) for name in attrs.fields_dict(type(self))
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BuildSpec:
        """Read what `to_json` returned.

        Raises:
            ValueError: The fields are not those of this version of the class.
        """
        if content.keys() != attrs.fields_dict(cls).keys():
            raise ValueError("the fields of the spec are those of another version")
        return cls(**{**content, "model_path": Path(content["model_path"])})


def _names(role: Role) -> list[str]:
    return [
        field.name for field in attrs.fields(BuildSpec) if field.metadata[Role] is role
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


def _covers(built: int | None, asked: int | None) -> bool:
    """`None` is unbounded; what is bounded does not cover it."""
    return built is None or (asked is not None and built >= asked)


def _differences(name: str, built: Any, asked: Any) -> Iterable[Difference]:
    if isinstance(built, Mapping):
        for key in sorted({*built, *asked}):
            yield from _differences(f"{name}.{key}", built.get(key), asked.get(key))
    elif built != asked:
        yield Difference(name, built, asked)
