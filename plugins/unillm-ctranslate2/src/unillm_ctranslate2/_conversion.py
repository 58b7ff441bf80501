# SPDX-License-Identifier: Apache-2.0

"""Converts a transformers model to CTranslate2's format and compares the two.

The vocabulary of the converted model is the ids as texts, ``"0"``, ``"1"`` and so on.
So no tokenizer is needed, and two ids with equal tokens stay different.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unillm.backend import (
    check_code,
    check_weights,
    load_config,
    load_model,
    read_config,
)
from unillm.errors import ModelLoadError, UnsupportedModelError

if TYPE_CHECKING:
    from unillm.backend import BuildSpec, Progress

PROBE_TOKENS = 128

_ROUNDING = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
_QUANTISED = 0.5
"""Largest distance of the converted logits from the original's, as a share of their
spread. Rounding is far below; a wrong layer is far above."""


def convert(spec: BuildSpec, target: Path, progress: Progress) -> None:
    """Write a model in CTranslate2's format.

    Raises:
        UnsafeModelError: Loading it would run code from the checkpoint.
        ModelLoadError: It is broken.
        UnsupportedModelError: CTranslate2 cannot convert it, or the converted model
            computes other logits than the original.
    """
    path = spec.model_path
    check_code(read_config(path), name=spec.model)
    check_weights(path)
    progress("loading the model")
    model = load_model(path, load_config(path), "auto", trust_remote_code=False)
    stored_as = str(model.dtype).removeprefix("torch.")
    probe = _probe_of(model.config)
    expected = _logits_of(model, probe)
    _check_finite(spec, expected)
    progress("converting the model")
    _write(model, target, quantization=spec.quantization or spec.dtype)
    del model
    gc.collect()
    progress("comparing it with the original")
    found = _logits_of_converted(target, probe)
    _compare(
        spec,
        distance(found, expected),
        _QUANTISED
        if spec.quantization
        else max(_ROUNDING[stored_as], _ROUNDING[spec.dtype]),
    )


class _Ids:
    """A fake tokenizer whose tokens are the ids as texts."""

    bos_token = eos_token = unk_token = pad_token = "0"  # noqa: S105 - a token of text
    chat_template = None

    def __init__(self, size: int) -> None:
        self._size = size

    def get_vocab(self) -> Mapping[str, int]:
        return {str(token_id): token_id for token_id in range(self._size)}


def _write(model: Any, target: Path, *, quantization: str) -> None:
    from ctranslate2.converters import TransformersConverter

    size = model.config.get_text_config().vocab_size
    _restore_old_names(model.config)

    class Converter(TransformersConverter):  # type: ignore[misc]
        """Uses the loaded model and the fake tokenizer."""

        def load_model(self, *_: Any, **__: Any) -> Any:
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return _Ids(size)

    try:
        Converter(str(model.config.name_or_path)).convert(
            str(target), quantization=quantization, force=True
        )
    except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
        raise UnsupportedModelError(
            f"CTranslate2 cannot convert this {type(model).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _restore_old_names(config: Any) -> None:
    """Restore the names that transformers 5 dropped and the converter reads.

    Without them the converter uses its own defaults in silence.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in ropes:
        config.rope_theta = ropes["full_attention"]["rope_theta"]
        config.rope_local_base_freq = ropes["sliding_attention"]["rope_theta"]
    elif "rope_theta" in ropes:
        config.rope_theta = ropes["rope_theta"]


# ------------------------------------------------------------------------ comparing


def _probe_of(config: Any) -> list[int]:
    from unillm.backend import positions_of

    size = config.get_text_config().vocab_size
    numbers = random.Random(0)
    # Requests that are served do not fill the window of a model.
    window = getattr(config, "sliding_window", None) or PROBE_TOKENS
    length = min(PROBE_TOKENS, positions_of(config), window)
    return [numbers.randrange(size) for _ in range(length)]


def _logits_of(model: Any, ids: list[int]) -> Any:
    """Return ``[len(ids), vocab]``, float64, of the original."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return logits.double().numpy()


def _logits_of_converted(path: Path, ids: list[int]) -> Any:
    import numpy as np
    from ctranslate2 import Generator

    generator = Generator(str(path), device="cpu", compute_type="default")
    logits = generator.forward_batch([[str(token_id) for token_id in ids]])
    return np.array(logits)[0].astype(np.float64)


def _check_finite(spec: BuildSpec, logits: Any) -> None:
    """Refuse a model that computes no numbers, before and after its conversion."""
    import numpy as np

    if np.isfinite(logits).all():
        return
    raise ModelLoadError(
        f"The logits of {spec.model!r} are NaN or infinite, so there is nothing to "
        "compare a conversion with. Its weights hold such numbers, or its activations "
        "overflow in its dtype: download it again, or use a checkpoint in bfloat16 or "
        "float32."
    )


def distance(found: Any, expected: Any) -> float:
    """Return the distance of logits, as a share of the expected spread.

    Args:
        found: ``[positions, vocab]``.
        expected: The same shape. A constant added to a row makes no difference.

    Returns:
        0 for equal logits; NaN or infinity where *found* has such numbers, or
        *expected* has no spread.
    """
    import numpy as np

    expected = expected - expected.mean(axis=-1, keepdims=True)
    found = found[:, : expected.shape[1]]
    found = found - found.mean(axis=-1, keepdims=True)
    off = np.linalg.norm(found - expected)
    return float(off / np.linalg.norm(expected)) if off else 0.0


def _compare(spec: BuildSpec, found: float, allowed: float) -> None:
    if found <= allowed:
        return
    fault = (
        f"are off by {found:.1%} of their spread, and rounding is less than "
        f"{allowed:.1%}"
        if math.isfinite(found)
        else "are not finite, or those of the original are all alike"
    )
    raise UnsupportedModelError(
        f"CTranslate2 converted {spec.model!r}, but not correctly: the logits of the "
        f"converted model {fault}. Use another backend."
    )
