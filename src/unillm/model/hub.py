# SPDX-License-Identifier: Apache-2.0

"""Models of a Hugging Face hub: which files of one are needed, and their download.

huggingface_hub downloads, keeps the cache and draws the bars. This module chooses the
files, refuses a repository before its files are downloaded, and says what went wrong.
"""

from __future__ import annotations

import errno
import fnmatch
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..byte_text import size
from ..errors import ModelError, ModelLoadError, ModelNotFoundError, UnsafeModelError

log = logging.getLogger("unillm")

_TEXTS = ("*.json", "*.model", "*.jinja", "*.txt")
"""Files beside the weights: no code."""

_FOLDERS = ("additional_chat_templates",)
"""Folders of a repository that are needed; others repeat the model in other formats."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

GGUF_ADVICE = (
    "GGUF is the format of llama.cpp. Pass the id of the original model, which the "
    "model card names; or serve the file with llama.cpp's server and use the backend "
    "'remote'; or write the weights as safetensors once, with transformers and its "
    "package gguf: AutoModelForCausalLM.from_pretrained(old, gguf_file=name)"
    ".save_pretrained(new)."
)


def download(name: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """Return the directory of a hub id, from the cache or downloaded.

    Asks the hub for the newest commit of the revision, unless ``HF_HUB_OFFLINE=1``
    forbids it. A hub that cannot be reached leaves the cached files in use.

    Args:
        name: The hub id.
        revision: Branch, tag or commit; `None` for the main branch.
        weights: Whether the weights are wanted too.

    Raises:
        ModelNotFoundError: The hub has no such model or revision for this account, or
            cannot be reached, and the cache has none either.
        ModelLoadError: The repository holds another format; or the download broke off,
            or does not fit on the disk.
        UnsafeModelError: The only weights are pickles.
    """
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return _cached(name, revision, weights=weights)
    try:
        found = HfApi().model_info(name, revision=revision, files_metadata=True)
    except errors.HFValidationError as error:
        raise ModelNotFoundError(
            f"There is no directory {name!r}, and it is not a hub id either: {error}"
        ) from error
    except errors.HfHubHTTPError as error:
        if refusal := _refusal(name, revision, error):
            raise refusal from error
        return _cached(name, revision, weights=weights, unreachable=error)
    except Exception as error:  # noqa: BLE001 - of the HTTP library, whichever it is
        return _cached(name, revision, weights=weights, unreachable=error)
    sizes = {each.rfilename: each.size or 0 for each in found.siblings or ()}
    wanted = needed_files(sizes, weights=weights)
    if weights:
        _check_format(name, sizes, wanted)
    return _download(name, revision, {file: sizes[file] for file in wanted}, found.sha)


def needed_files(
    files: Sequence[str] | Mapping[str, int], *, weights: bool
) -> list[str]:
    """Return the files of a repository that unillm reads.

    Weights that a repository holds twice, as one file and in parts or in Mistral's own
    naming, are needed once.
    """
    files = list(files)
    top = [file for file in files if "/" not in file]
    nested = [file for file in files if file.partition("/")[0] in _FOLDERS]
    wanted = [file for file in (*top, *nested) if _matches(file, _TEXTS)]
    if not weights:
        return wanted
    stored = [file for file in top if file.endswith(".safetensors")]
    if "model.safetensors" in stored:
        return [*wanted, "model.safetensors"]
    others = [file for file in stored if not file.startswith("consolidated")]
    return [*wanted, *(others or stored)]


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def _check_format(name: str, files: Mapping[str, int], wanted: Sequence[str]) -> None:
    """Refuse a repository without safetensors, before anything is downloaded."""
    if any(file.endswith(".safetensors") for file in wanted):
        return
    pickles = sorted(file for file in files if _matches(file, _PICKLES))
    if ggufs := sorted(file for file in files if file.endswith(".gguf")):
        raise ModelLoadError(
            f"{name} has its weights as GGUF ({_listed(ggufs)}). {GGUF_ADVICE}"
        )
    if pickles:
        raise UnsafeModelError(
            f"{name} has its weights in pickles only ({_listed(pickles)}), which run "
            "code when they are loaded, so nothing was downloaded. If you trust where "
            "they come from, write them as safetensors once, with transformers: "
            f"AutoModelForCausalLM.from_pretrained({name!r}).save_pretrained(new)."
        )


def _listed(files: Sequence[str]) -> str:
    shown = ", ".join(files[:3])
    return f"{shown} and {len(files) - 3} more" if len(files) > 3 else shown


def _download(
    name: str, revision: str | None, files: Mapping[str, int], commit: str | None
) -> Path:
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    missing = {
        file: num_bytes
        for file, num_bytes in files.items()
        if not isinstance(try_to_load_from_cache(name, file, revision=commit), str)
    }
    if missing:
        total = sum(missing.values())
        log.info("%s: downloading %d files, %s", name, len(missing), size(total))
        _check_disk(name, total, Path(constants.HF_HUB_CACHE))
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(files),
                tqdm_class=_bars(shown=bool(missing)),
            )
        )
    except Exception as error:
        refusal = None
        if isinstance(error, HfHubHTTPError):  # a gate is in front of the files alone
            refusal = _refusal(name, revision, error)
        raise (refusal or _broken_off(name, error)) from error


def _bars(*, shown: bool) -> type:
    """Return the class of huggingface_hub's bars, which draws on a terminal alone."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bars(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.setdefault("disable", None if shown else True)
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    return Bars


def _check_disk(name: str, num_bytes: int, cache: Path) -> None:
    existing = next(each for each in (cache, *cache.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise ModelLoadError(
            f"{name} needs {size(num_bytes)} more on the disk, and {size(free)} are "
            f"free in the cache {cache}, so nothing was downloaded. {_ROOM}"
        )


_ROOM = (
    "`unillm models` lists what is there, and `hf cache rm` removes a model; HF_HOME "
    "puts the cache on another disk."
)


def _broken_off(name: str, error: Exception) -> ModelError:
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelLoadError(
            f"The disk is full: {name} does not fit in the cache "
            f"{constants.HF_HUB_CACHE}. What arrived is kept. {_ROOM}"
        )
    return ModelLoadError(
        f"The download of {name} broke off: {_reason(error)}. What arrived is kept: "
        "run it again, and the rest is downloaded."
    )


def _cached(
    name: str,
    revision: str | None,
    *,
    weights: bool,
    unreachable: Exception | None = None,
) -> Path:
    """Return the directory in the cache.

    Raises:
        ModelNotFoundError: It is not there, or not whole.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(
            snapshot_download(
                name,
                revision=revision,
                # Without a pattern, it misses files that are never downloaded.
                allow_patterns=["config.json"],
                local_files_only=True,
            )
        )
        if weights and not any(path.glob("*.safetensors")):
            raise LocalEntryNotFoundError("there are no weights")  # noqa: TRY301
    except (LocalEntryNotFoundError, ValueError) as error:
        raise _not_cached(name, revision, unreachable) from (unreachable or error)
    if unreachable is not None:
        log.warning(
            "The hub %s cannot be reached (%s); the files of %s in the cache are used.",
            constants.ENDPOINT,
            _reason(unreachable),
            name,
        )
    return path


def _not_cached(
    name: str, revision: str | None, unreachable: Exception | None
) -> ModelNotFoundError:
    from huggingface_hub import constants

    what = f"{name!r}" + (f" with the revision {revision!r}" if revision else "")
    if unreachable is None:
        why, advice = "HF_HUB_OFFLINE=1 forbids to ask the hub", "Unset HF_HUB_OFFLINE"
    else:
        hub, advice = constants.ENDPOINT, "Check the network, a proxy and HF_ENDPOINT"
        why = f"the hub {hub} cannot be reached ({_reason(unreachable)})"
    return ModelNotFoundError(
        f"There is no directory {name!r}, and the hub gave no model of that name: "
        f"{what} is not in the cache {constants.HF_HUB_CACHE}, or only in part, and "
        f"{why}. {advice}; or run `hf download {name}` where there is a network, and "
        "pass the folder that it prints."
    )


def _refusal(name: str, revision: str | None, error: Any) -> ModelNotFoundError | None:
    """Return the error for an answer of the hub that no cache makes up for."""
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        account = (
            "the account of your token has no access to it yet"
            if get_token()
            else "no token was sent"
        )
        return ModelNotFoundError(
            f"{name} is gated: its authors ask to accept their terms, and {account}. "
            f"Accept them at {hub}/{name}, then log in with `hf auth login`, or set "
            "HF_TOKEN to a token that may read gated models."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{name} has no revision {revision!r}. Pass a branch, a tag or a commit; "
            f"{hub}/{name}/tree/main lists them."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"There is no directory {name!r}, and the hub {hub} has no model of that "
            "name, or only for others. Check the name; for a private model, log in "
            "with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.DisabledRepoError):
        return ModelNotFoundError(f"The hub {hub} has disabled {name}.")
    if error.response.status_code == 401:
        return ModelNotFoundError(
            f"The hub {hub} refused your token for {name}. Log in anew with `hf auth "
            "login`, or correct HF_TOKEN."
        )
    return None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
