# SPDX-License-Identifier: Apache-2.0

"""``vllm.tokenizers``: the tokenizer of a model by its name."""

from __future__ import annotations

import os
from typing import Any

from ..errors import ConfigError


def get_tokenizer(
    tokenizer_name: str | os.PathLike[str],
    *,
    tokenizer_mode: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    **options: Any,
) -> Any:
    """Return a tokenizer of transformers.

    Args:
        tokenizer_name: Directory, hub id, or the bundled ``"unillm/tiny"``.
        tokenizer_mode: "auto" or "hf".
        trust_remote_code: Run tokenizer code of the model.
        revision: `None` or "main".
        options: Passed on to ``AutoTokenizer.from_pretrained``.

    Raises:
        ConfigError: The mode or the revision is another one.
        ModelNotFoundError: The model does not exist.
    """
    for name, value, possible in (
        ("tokenizer_mode", tokenizer_mode, ("auto", "hf")),
        ("revision", revision, (None, "main")),
    ):
        if value not in possible:
            raise ConfigError(
                f"get_tokenizer takes {name} in {possible}, got {value!r}. Use "
                "transformers.AutoTokenizer.from_pretrained instead."
            )
    from transformers import AutoTokenizer

    from ..backend import find_model

    return AutoTokenizer.from_pretrained(
        find_model(tokenizer_name), trust_remote_code=trust_remote_code, **options
    )
