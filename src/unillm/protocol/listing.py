# SPDX-License-Identifier: Apache-2.0

"""Bodies of answers about models and tokens."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class ModelCard(Struct, kw_only=True):
    """One entry of ``/v1/models``."""

    id: str
    created: int
    root: str
    object: Literal["model"] = "model"
    owned_by: str = "unillm"
    parent: str | None = None
    """The model that an adapter changes."""
    max_model_len: int | UnsetType = UNSET


class ModelList(Struct, kw_only=True):
    """Body of ``/v1/models``."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class Tokenized(Struct, kw_only=True):
    """Body of the answer of ``/tokenize``."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class Detokenized(Struct, kw_only=True):
    """Body of the answer of ``/detokenize``."""

    prompt: str


class Version(Struct, kw_only=True):
    """Body of ``/version``."""

    version: str
