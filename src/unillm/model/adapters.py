# SPDX-License-Identifier: Apache-2.0

"""A LoRA adapter in the directory of a model, where training programs leave it.

Libraries disagree on such a directory: transformers 5.19 adds the adapter to the model
if peft is installed, vLLM 0.32 takes the adapter's tensors for the model's and fails.
Here it is the model as its weights stand, on every backend; a request names an adapter.
"""

from __future__ import annotations

import atexit
import logging
from pathlib import Path

from ..errors import ModelLoadError
from ..files import read_json
from ..lora import CONFIG_FILE

log = logging.getLogger("unillm")

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".engine")


def is_adapter_file(path: Path) -> bool:
    """Whether a file belongs to an adapter, by its name in PEFT's format."""
    return path.name.startswith("adapter_")


def check_adapter_files(path: Path) -> None:
    """Warn about an adapter beside a model, and refuse one in place of a model.

    Raises:
        ModelLoadError: The directory has an adapter and no weights of a model.
    """
    config = read_json(path, CONFIG_FILE)
    if config is None:
        return
    if any(
        file.suffix in _WEIGHTS and not is_adapter_file(file) for file in path.iterdir()
    ):
        log.warning(
            "%s has an adapter beside the weights of the model (%s). The model is "
            "served as its weights stand, without the adapter; to use it, pass "
            "LoRARequest(name, 1, %r) with a request.",
            path,
            CONFIG_FILE,
            str(path),
        )
        return
    base = config.get("base_model_name_or_path")
    trained = f", {base}" if isinstance(base, str) and base else ""
    raise ModelLoadError(
        f"{path} holds an adapter ({CONFIG_FILE}) and no weights of a model. Name the "
        f"model that the adapter was trained on{trained}, with enable_lora=True, and "
        f"pass LoRARequest(name, 1, {str(path)!r}) with a request."
    )


def without_adapter(path: Path) -> Path:
    """Return a model directory as a library is to see it: without an adapter.

    That is the directory itself, or one with links to all its other files, which is
    removed when the process ends: engines may read it again.
    """
    if not (path / CONFIG_FILE).exists():
        return path
    import shutil
    import tempfile

    seen = Path(tempfile.mkdtemp(prefix="unillm-"))
    atexit.register(shutil.rmtree, seen, ignore_errors=True)
    for entry in path.iterdir():
        if not is_adapter_file(entry):
            (seen / entry.name).symlink_to(entry.resolve())
    return seen
