# SPDX-License-Identifier: Apache-2.0

"""The models that requests may name: one under several names, and its adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from msgspec import UNSET, UnsetType

from ..errors import ConfigError
from ..lora import LoRARequest
from .errors import unknown_model
from .listing import ModelCard


@attrs.frozen
class Served:
    """A model that a request names."""

    name: str
    adapter: LoRARequest | None = None


class Models:
    """Finds the model of a request.

    Args:
        names: Names of the model; the first is in the answers.
        root: Name or path that the model was loaded from.
        adapters: Directory of each adapter by name.
        created: Seconds since the epoch.

    Raises:
        ConfigError: An adapter has the name of the model.
    """

    def __init__(
        self, names: Sequence[str], root: str, adapters: Mapping[str, str], created: int
    ) -> None:
        if same := sorted(set(names) & set(adapters)):
            raise ConfigError(
                f"--lora-modules gives an adapter the name of the model: {same[0]!r}. "
                "Give it another one."
            )
        self._names = tuple(names)
        self._root = root
        self._created = created
        self._adapters = {
            name: LoRARequest(name, number, path)
            for number, (name, path) in enumerate(adapters.items(), start=1)
        }

    @property
    def first(self) -> str:
        """Name of the model in answers."""
        return self._names[0]

    def find(self, name: str | None) -> Served:
        """Return the model of a request that names *name*, or no model at all.

        Raises:
            ApiError: There is no such model.
        """
        if name is None or name in self._names:
            return Served(self._names[0])
        if name in self._adapters:
            return Served(name, self._adapters[name])
        raise unknown_model(name, [*self._names, *self._adapters])

    def cards(self, max_model_len: int | UnsetType = UNSET) -> list[ModelCard]:
        """Return all models; *max_model_len* is unset before the engine has one."""
        own = [
            ModelCard(
                id=name,
                created=self._created,
                root=self._root,
                max_model_len=max_model_len,
            )
            for name in self._names
        ]
        adapters = [
            ModelCard(
                id=name,
                created=self._created,
                root=adapter.lora_path,
                parent=self._names[0],
                max_model_len=max_model_len,
            )
            for name, adapter in self._adapters.items()
        ]
        return own + adapters
