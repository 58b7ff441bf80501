# SPDX-License-Identifier: Apache-2.0

"""`LoRARequest`: the adapter that a request is computed with.

Adapters are local directories in PEFT's format, weights as safetensors. Each is checked
here, once, before any engine sees it; none of its files is executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from .errors import InvalidParameterError, ModelLoadError
from .files import read_json
from .keywords import suggest_names

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def _refuse(message: str, value: Any) -> InvalidParameterError:
    return InvalidParameterError(message, parameter="lora_request", value=value)


def _text(_: LoRARequest, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise _refuse(
            f"{field.name} must be a text that is not empty, got {value!r}.", value
        )


def _identifier(_: LoRARequest, field: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _refuse(f"{field.name} must be an integer ≥ 1, got {value!r}.", value)


def _as_path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "base_model_name": (None,),
    "is_3d_lora_weight": (False,),
    "load_inplace": (False,),
}
"""Fields of vLLM's ``LoRARequest`` with the values that change nothing."""


@suggest_names(harmless=_HARMLESS)
@attrs.frozen
class LoRARequest:
    """A LoRA adapter, with vLLM's names and order.

    Raises:
        InvalidParameterError: A value has the wrong type or is empty.
    """

    __module__ = "unillm"

    lora_name: str = attrs.field(validator=_text)
    """Any name, for logs and messages."""
    lora_int_id: int = attrs.field(validator=_identifier)
    """Id of the adapter in the engine: at least 1, different for each adapter."""
    lora_path: str = attrs.field(converter=_as_path, validator=_text)
    """Local directory with ``adapter_config.json`` and
    ``adapter_model.safetensors``."""

    @property
    def name(self) -> str:
        """`lora_name`, as in vLLM."""
        return self.lora_name

    @property
    def path(self) -> str:
        """`lora_path`, as in vLLM."""
        return self.lora_path

    @property
    def adapter_id(self) -> int:
        """`lora_int_id`, as in vLLM."""
        return self.lora_int_id


LoRALike = LoRARequest | Sequence[LoRARequest | None] | None
"""One for all prompts, one (or `None`) for each, or `None` for the model alone."""


def as_adapter(value: Any) -> LoRARequest | None:
    """Return *value*, which must be an adapter or `None`."""
    if value is None or isinstance(value, LoRARequest):
        return value
    raise _refuse(
        f"lora_request must be a LoRARequest, got {type(value).__name__}. Write "
        'LoRARequest("name", 1, "/path/of/the/adapter"), for example.',
        value,
    )


class KnownAdapters:
    """The adapters that requests have named, each checked at its first request.

    Args:
        max_rank: Largest rank; `None` leaves it to the engine.
    """

    def __init__(self, *, max_rank: int | None) -> None:
        self._max_rank = max_rank
        self._checked: dict[LoRARequest, LoRARequest] = {}
        self._by_id: dict[int, LoRARequest] = {}

    def check(self, request: LoRARequest) -> LoRARequest:
        """Return the adapter as an engine gets it: one value each, its path absolute.

        Raises:
            InvalidParameterError: The directory is missing or not a LoRA adapter, its
                rank is too large, its weights are not safetensors, or another adapter
                has its id.
        """
        if request in self._checked:
            return self._checked[request]
        path = Path(os.path.expanduser(request.lora_path))
        check_adapter(request, path, max_rank=self._max_rank)
        found = attrs.evolve(request, lora_path=str(path.resolve()))
        first = self._by_id.setdefault(request.lora_int_id, found)
        if first.lora_path != found.lora_path:
            raise _refuse(
                f"lora_int_id={request.lora_int_id} is that of {first.lora_name!r} in "
                f"{first.lora_path}, and was given for {request.lora_name!r} in "
                f"{found.lora_path}. Give each adapter an id of its own.",
                request,
            )
        self._checked[request] = first
        return first


def check_adapter(request: LoRARequest, path: Path, *, max_rank: int | None) -> None:
    """Raise `InvalidParameterError` unless *path* is an adapter that can be served."""
    adapter = f"The adapter {request.lora_name!r}"
    if not path.is_dir():
        raise _refuse(
            f"{adapter} is not there: {path} is not a directory. lora_path is a local "
            "one; download an adapter of the hub first.",
            request,
        )
    try:
        rank = largest_rank(read_adapter_config(path))
    except ModelLoadError as error:
        raise _refuse(f"{adapter} cannot be read: {error}", request) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _refuse(
            f"{adapter} cannot be read: {path / CONFIG_FILE}: {error!r}.", request
        ) from error
    if not (path / WEIGHTS_FILE).is_file():
        pickled = sorted(file.name for file in path.glob("*.bin"))
        why = (
            f"only {', '.join(pickled)}, a pickle, which runs code when it is loaded. "
            "Save it again with peft, which writes safetensors"
            if pickled
            else "so it has no weights"
        )
        raise _refuse(f"{adapter} has no {WEIGHTS_FILE} in {path}, {why}.", request)
    if max_rank is not None and rank > max_rank:
        raise _refuse(
            f"{adapter} has rank {rank}, more than this generator's max_lora_rank="
            f"{max_rank}. Create the Generator with max_lora_rank={rank}.",
            request,
        )


def read_adapter_config(path: Path) -> Mapping[str, Any]:
    """Return ``adapter_config.json`` of an adapter's directory.

    Raises:
        OSError: There is no such file.
        ModelLoadError: It cannot be read, or is not a JSON object.
        ValueError: It is not of LoRA.
    """
    config = read_json(path, CONFIG_FILE)
    if config is None:
        raise FileNotFoundError(f"there is no {CONFIG_FILE}")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"peft_type is {kind!r:.80}, and only 'LORA' is served")
    return config


def largest_rank(config: Mapping[str, Any]) -> int:
    """Return the largest rank that an adapter's configuration names.

    Raises:
        ValueError: A rank is not a number of rows.
        LookupError, TypeError, AttributeError: The configuration names none, or has
            another form.
    """
    patterns: Mapping[str, Any] = config.get("rank_pattern") or {}
    ranks: dict[str, Any] = {
        "r": config["r"],
        **{f"rank_pattern.{k}": n for k, n in patterns.items()},
    }
    for name, rank in ranks.items():
        if type(rank) is not int or rank < 1:
            raise ValueError(f"{name} must be an integer ≥ 1, got {rank!r:.80}")
    return int(max(ranks.values()))
